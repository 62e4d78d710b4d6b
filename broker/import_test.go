package broker_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestImportRejectsBadInput(t *testing.T) {
	t.Parallel()
	const tokens = `"access_token":"a","refresh_token":"r"`
	for name, test := range map[string]struct {
		body  string
		kind  record.InputKind
		field string
	}{
		"empty body":                {``, record.InputSyntax, ""},
		"not JSON":                  {`{"credentials":`, record.InputSyntax, ""},
		"two values":                {`{} {}`, record.InputSyntax, ""},
		"not an object":             {`[]`, record.InputSyntax, ""},
		"null":                      {`null`, record.InputSyntax, ""},
		"not UTF-8":                 {"{\"consumer_id\":\"\xff\"}", record.InputSyntax, ""},
		"unknown member":            {`{"credential":{}}`, record.InputSyntax, `"credential"`},
		"member in the wrong case":  {`{"Credentials":{}}`, record.InputSyntax, `"Credentials"`},
		"member sent twice":         {`{"settings":{},"settings":{}}`, record.InputSyntax, "settings"},
		"credentials not an object": {`{"credentials":"x"}`, record.InputSyntax, "credentials"},
		"unknown credential":        {`{"credentials":{"client_secret":"x"}}`, record.InputSyntax, `"credentials.client_secret"`},
		"access token a number":     {`{"credentials":{"access_token":1}}`, record.InputSyntax, "credentials.access_token"},
		"issued_at no date":         {`{"credentials":{` + tokens + `,"issued_at":"yesterday"}}`, record.InputSyntax, "credentials.issued_at"},
		"issued_at a number":        {`{"credentials":{` + tokens + `,"issued_at":1600000000}}`, record.InputSyntax, "credentials.issued_at"},
		"expires_at no date":        {`{"credentials":{` + tokens + `,"expires_at":"2026"}}`, record.InputSyntax, "credentials.expires_at"},
		"expires_at beyond years":   {`{"credentials":{` + tokens + `,"expires_at":"9999-12-31T23:59:59-01:00"}}`, record.InputSyntax, "credentials.expires_at"},
		"expires_in a string":       {`{"credentials":{` + tokens + `,"expires_in":"3600"}}`, record.InputSyntax, "credentials.expires_in"},
		"expires_in a fraction":     {`{"credentials":{` + tokens + `,"expires_in":1.5}}`, record.InputSyntax, "credentials.expires_in"},
		"expires_in huge":           {`{"credentials":{` + tokens + `,"expires_in":1e999}}`, record.InputSyntax, "credentials.expires_in"},
		"expires_in negative":       {`{"credentials":{` + tokens + `,"expires_in":-1}}`, record.InputInvalid, "credentials.expires_in"},
		"settings a list":           {`{"settings":[]}`, record.InputSyntax, "settings"},
		"metadata a string":         {`{"metadata":"x"}`, record.InputSyntax, "metadata"},
		"another consumer":          {`{"consumer_id":"other","credentials":{` + tokens + `}}`, record.InputInvalid, "consumer_id"},
		"no credentials":            {`{}`, record.InputInvalid, "credentials.access_token"},
		"only settings, new":        {`{"settings":{"a":1}}`, record.InputInvalid, "credentials.access_token"},
		"no access token":           {`{"credentials":{"refresh_token":"r"}}`, record.InputInvalid, "credentials.access_token"},
		"no refresh token":          {`{"credentials":{"access_token":"a"}}`, record.InputInvalid, "credentials.refresh_token"},
		"refresh token null":        {`{"credentials":{"access_token":"a","refresh_token":null}}`, record.InputInvalid, "credentials.refresh_token"},
		"refresh token empty":       {`{"credentials":{"access_token":"a","refresh_token":""}}`, record.InputInvalid, "credentials.refresh_token"},
		"line break in a token":     {`{"credentials":{"access_token":"a\n","refresh_token":"r"}}`, record.InputInvalid, "credentials.access_token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				_, _, err := h.importBody(h.key, test.body)
				var input *record.InputError
				if !errors.As(err, &input) {
					t.Fatalf("got error %v, want an InputError", err)
				}
				if input.Kind != test.kind || input.Field != test.field {
					t.Errorf("got kind %d, field %q (%v), want kind %d, field %q", input.Kind, input.Field, err, test.kind, test.field)
				}
				if _, _, err := h.store.Load(t.Context(), h.key); !errors.Is(err, record.ErrNotFound) {
					t.Errorf("something was stored: %v", err)
				}
			})
		})
	}
}

func TestImportRequiresWhatTheAuthTypeNeeds(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		for name, test := range map[string]struct {
			key   record.Key
			body  string
			field string // empty: good
		}{
			"API key":                        {h.at(keyed), `{"settings":{"api_key":"k"}}`, ""},
			"API key missing":                {h.at(keyed), `{"settings":{"other":"k"}}`, "settings.api_key"},
			"API key null":                   {h.at(keyed), `{"settings":{"api_key":null}}`, "settings.api_key"},
			"tokens for an API key":          {h.at(keyed), `{"credentials":{"access_token":"a"},"settings":{"api_key":"k"}}`, "credentials"},
			"optional refresh token":         {h.at(long), `{"credentials":{"access_token":"a"}}`, ""},
			"client credentials, no refresh": {h.at(cc), `{"credentials":{"access_token":"a"}}`, ""},
			"client credentials, no token":   {h.at(cc), `{}`, ""},
		} {
			test.key.Consumer = name
			_, _, err := h.importBody(test.key, test.body)
			if test.field != "" {
				wantInvalid(t, err, test.field)
			} else if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		unknown := h.key
		unknown.Connector.ServiceID = "nobody"
		if _, _, err := h.importBody(unknown, `{}`); !errors.Is(err, record.ErrConnectorNotFound) {
			t.Errorf("got %v, want ErrConnectorNotFound", err)
		}
		for _, consumer := range []string{"", strings.Repeat("x", 256), "a\nb", "a\x00", "\xff"} {
			bad := h.of(consumer)
			var input *record.InputError
			if _, _, err := h.importBody(bad, `{}`); !errors.As(err, &input) || input.Field != "x-apideck-consumer-id" {
				t.Errorf("consumer %q: got %v, want an InputError for the header", consumer, err)
			}
		}
	})
}

func TestImportQueuesARefreshWhenTheTokenMayBeExpired(t *testing.T) {
	t.Parallel()
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // where synctest's time begins
	at := func(d time.Duration) string { return now.Add(d).Format(time.RFC3339) }
	for name, test := range map[string]struct {
		members string
		want    bool
	}{
		"fresh":                      {`,"issued_at":"` + at(-time.Minute) + `","expires_in":3600`, false},
		"expired":                    {`,"issued_at":"` + at(-2*time.Hour) + `","expires_in":3600`, true},
		"expires at once":            {`,"issued_at":"` + at(0) + `","expires_in":0`, true},
		"no issued_at":               {`,"expires_in":3600`, true},
		"issued_at null":             {`,"issued_at":null,"expires_in":3600`, true},
		"no expires_in":              {`,"issued_at":"` + at(-time.Minute) + `"`, true},
		"neither":                    {``, true},
		"expires_at":                 {`,"issued_at":"` + at(-time.Minute) + `","expires_at":"` + at(time.Hour) + `"`, false},
		"expires_at wins":            {`,"issued_at":"` + at(-time.Minute) + `","expires_in":3600,"expires_at":"` + at(-time.Second) + `"`, true},
		"expires_at, no issued_at":   {`,"expires_at":"` + at(time.Hour) + `"`, true},
		"issued in the future":       {`,"issued_at":"` + at(24*time.Hour) + `","expires_in":3600`, false},
		"integer with a zero point":  {`,"issued_at":"` + at(-time.Minute) + `","expires_in":3600.0`, false},
		"lifetime in milliseconds":   {`,"issued_at":"2022-01-01T00:00:00Z","expires_in":3600000`, false}, // future: counts as now
		"lifetime of many centuries": {`,"issued_at":"` + at(0) + `","expires_in":99999999999`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				h.provider.Grant("r-" + brokertest.RefreshCanary)
				_, outcome, err := h.importBody(h.key, `{"credentials":{"access_token":"a","refresh_token":"r-`+brokertest.RefreshCanary+`"`+test.members+`}}`)
				if err != nil || outcome != record.ImportStored {
					t.Fatalf("got %q, %v; want stored", outcome, err)
				}
				synctest.Wait()
				if got := len(h.provider.Requests()) == 1; got != test.want {
					t.Errorf("refreshed: %v, want %v", got, test.want)
				}
				if rec := h.wantRecord(h.key, recordWant{}); rec.Cycle.Queued {
					t.Error("the refresh is still queued")
				}
			})
		})
	}
}

func TestImportDoesNotWaitForTheRefresh(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		release := h.holdAnswers("r1")
		begun := time.Now()
		h.mustImport("a1", "r1")
		if waited := time.Since(begun); waited != 0 {
			t.Errorf("the import took %v, want no time", waited)
		}
		if rec := h.record(h.key); !rec.Cycle.Queued {
			t.Error("the refresh is not stored as queued: a crash would lose it")
		}
		if got := h.token(h.key); got != "a1" {
			t.Errorf("got token %q while the refresh is in progress, want the imported one", got)
		}
		close(release)
		synctest.Wait()
		if got := h.token(h.key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("got token %q, want the refreshed one", got)
		}
	})
}

func TestNewImportCostsOneWrite(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		writes := 0
		h.store.FailAfter = func(op string, _ record.Key) error {
			if op == brokertest.OpSave {
				writes++
			}
			return nil
		}
		h.mustImport("a1", "r1", issued(time.Minute))
		synctest.Wait()
		if writes != 1 {
			t.Errorf("got %d writes, want 1", writes)
		}
	})
}

func TestImportMergesSettingsAndMetadata(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, stored, sent, want string }{
		{"not sent stays", `{"a":1,"b":{"c":2}}`, `{}`, `{"a":1,"b":{"c":2}}`},
		{"merged deeply", `{"a":1,"b":{"c":2,"d":3}}`, `{"b":{"c":9}}`, `{"a":1,"b":{"c":9,"d":3}}`},
		{"null removes", `{"a":1,"b":2}`, `{"a":null}`, `{"b":2}`},
		{"lists are replaced", `{"a":[1,2]}`, `{"a":[{"b":null}]}`, `{"a":[{"b":null}]}`},
		{"object over value", `{"a":1}`, `{"a":{"b":null,"c":2}}`, `{"a":{"c":2}}`},
		{"numbers stay as written", `{}`, `{"a":12345678901234567890,"b":1.0}`, `{"a":12345678901234567890,"b":1.0}`},
		{"only a type says nothing", `{}`, `{"a":{"type":"x"}}`, `{}`},
		{"only a type removes", `{"a":{"type":"x","id":"1"},"b":1}`, `{"a":{"type":"y"}}`, `{"b":1}`},
		{"only a type removes a value", `{"a":5,"b":1}`, `{"a":{"type":"y"}}`, `{"b":1}`},
		{"deep down", `{"a":{"b":{"type":"x","id":1},"c":1}}`, `{"a":{"b":{"type":"x"}}}`, `{"a":{"c":1}}`},
		{"a type and more", `{}`, `{"a":{"type":"x","id":"1"}}`, `{"a":{"id":"1","type":"x"}}`},
		{"nothing left but a type", `{}`, `{"a":{"type":"x","b":{"type":"y"}}}`, `{}`},
		{"not inside lists", `{}`, `{"a":[{"type":"x"}]}`, `{"a":[{"type":"x"}]}`},
		{"top level type stays", `{}`, `{"type":"x"}`, `{"type":"x"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				body := `{"credentials":{"access_token":"a","refresh_token":"r",` + issued(0) + `},"settings":%[1]s,"metadata":%[1]s}`
				for _, part := range []string{test.stored, test.sent} {
					if _, _, err := h.importBody(h.key, fmt.Sprintf(body, part)); err != nil {
						t.Fatal(err)
					}
				}
				rec := h.record(h.key)
				for what, got := range map[string]map[string]any{"settings": rec.Settings, "metadata": rec.Metadata} {
					if encoded, _ := json.Marshal(got); string(encoded) != test.want && !(len(got) == 0 && test.want == `{}`) {
						t.Errorf("%s: got %s, want %s", what, encoded, test.want)
					}
				}
			})
		})
	}
}

func TestMaskedSettingSentBackStaysAsItWas(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		key := h.at(keyed)
		shown, _, err := h.importBody(key, `{"settings":{"api_key":"`+brokertest.SettingCanary+`","region":"eu"}}`)
		if err != nil {
			t.Fatal(err)
		}
		if want := map[string]any{"api_key": record.Mask, "region": "eu"}; !reflect.DeepEqual(shown.Settings, want) {
			t.Errorf("got settings %v, want %v", shown.Settings, want)
		}
		sent, _ := json.Marshal(map[string]any{"settings": shown.Settings})
		if _, _, err := h.importBody(key, string(sent)); err != nil {
			t.Fatal(err)
		}
		if got := h.record(key).Settings["api_key"]; got != brokertest.SettingCanary {
			t.Errorf("got %v", got)
		}
	})
}

func TestLongLifetimeIsWarnedAbout(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", `"issued_at":"2000-01-01T00:00:00Z","expires_in":36000000`)
		h.wantLogged(1, slog.LevelWarn, "lifetime=10000h0m0s")
	})
}

func FuzzParseImport(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"credentials":{"access_token":"a","refresh_token":null,"issued_at":"2022-01-01T00:00:00Z","expires_in":3600}}`,
		`{"settings":{"a":{"type":"x"}},"metadata":{"b":[1,2,{"c":null}]},"consumer_id":"x"}`, `{"credentials":{"expires_in":1e400}}`, `[`,
		`{"credentials":{"expires_in":-0.0}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		imp, err := apideck.ParseImport(body)
		if err != nil {
			if _, ok := errors.AsType[*record.InputError](err); !ok {
				t.Fatalf("error %v is not an InputError", err)
			}
			return
		}
		if !json.Valid(body) {
			t.Fatal("accepted what is not JSON")
		}
		if c := imp.Credentials; c != nil && c.ExpiresIn != nil && *c.ExpiresIn < 0 {
			t.Fatalf("accepted a negative lifetime: %v", *c.ExpiresIn)
		}
	})
}
