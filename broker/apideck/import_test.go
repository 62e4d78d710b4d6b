package apideck

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// wantInputError checks that err is an [*record.InputError] of that kind for the field.
func wantInputError(t *testing.T, err error, kind record.InputKind, field string) {
	t.Helper()
	input, ok := errors.AsType[*record.InputError](err)
	if !ok {
		t.Fatalf("got error %v, want an InputError", err)
	}
	if input.Kind != kind || input.Field != field {
		t.Errorf("got kind %d, field %q (%v), want kind %d, field %q", input.Kind, input.Field, err, kind, field)
	}
}

func TestParseImportReadsEachMember(t *testing.T) {
	t.Parallel()
	got, err := ParseImport([]byte(`{
		"consumer_id": "jane",
		"credentials": {
			"access_token": "a", "refresh_token": "r",
			"issued_at": "2026-01-02T03:04:05+02:00", "expires_at": "2026-01-02T03:04:05Z", "expires_in": 3600
		},
		"settings": {"n": 12345678901234567890, "o": {"l": [1.0, null]}},
		"metadata": {"m": "x"}
	}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &record.Import{
		ConsumerID: "jane",
		Credentials: &record.ImportCredentials{
			AccessToken: secret.New("a"), RefreshToken: secret.New("r"),
			IssuedAt:  time.Date(2026, 1, 2, 1, 4, 5, 0, time.UTC),
			ExpiresAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
			ExpiresIn: new(time.Hour),
		},
		Settings: map[string]any{
			"n": json.Number("12345678901234567890"), "o": map[string]any{"l": []any{json.Number("1.0"), nil}},
		},
		Metadata: map[string]any{"m": "x"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestParseImportTakesNullForAbsent(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]record.Import{
		`{}`: {},
		`{"consumer_id":null,"credentials":null,"settings":null,"metadata":null}`: {},
		`{"credentials":{}}`: {Credentials: &record.ImportCredentials{}},
		`{"credentials":{"access_token":null,"refresh_token":null,"issued_at":null,"expires_at":null,"expires_in":null}}`: {Credentials: &record.ImportCredentials{}},
		`{"credentials":{"refresh_token":""},"settings":{}}`:                                                              {Credentials: &record.ImportCredentials{}, Settings: map[string]any{}},
		`{"settings":{"a":null}}`: {Settings: map[string]any{"a": nil}},
	} {
		got, err := ParseImport([]byte(body))
		if err != nil {
			t.Errorf("%s: %v", body, err)
		} else if !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: got %+v, want %+v", body, *got, want)
		}
	}
}

func TestParseImportReadsLifetimesAsSeconds(t *testing.T) {
	t.Parallel()
	for number, want := range map[string]time.Duration{
		"0": 0, "-0.0": 0, "3600": time.Hour, "3600.0": time.Hour, "3.6e3": time.Hour, "3600000": 1000 * time.Hour,
		"99999999999": maxLifetime, "1e15": maxLifetime,
	} {
		imp, err := ParseImport(fmt.Appendf(nil, `{"credentials":{"expires_in":%s}}`, number))
		if err != nil {
			t.Errorf("%s: %v", number, err)
		} else if got := *imp.Credentials.ExpiresIn; got != want {
			t.Errorf("%s: got %v, want %v", number, got, want)
		}
	}
}

func TestParseImportRejectsBadInput(t *testing.T) {
	t.Parallel()
	const tokens = `"access_token":"a","refresh_token":"r"`
	for name, test := range map[string]struct {
		body  string
		kind  record.InputKind
		field string
	}{
		"empty body":                {``, record.InputSyntax, ""},
		"white space":               {" \n", record.InputSyntax, ""},
		"not JSON":                  {`{"credentials":`, record.InputSyntax, ""},
		"two values":                {`{} {}`, record.InputSyntax, ""},
		"not an object":             {`[]`, record.InputSyntax, ""},
		"null":                      {`null`, record.InputSyntax, ""},
		"not UTF-8":                 {"{\"consumer_id\":\"\xff\"}", record.InputSyntax, ""},
		"unknown member":            {`{"credential":{}}`, record.InputSyntax, `"credential"`},
		"member in the wrong case":  {`{"Credentials":{}}`, record.InputSyntax, `"Credentials"`},
		"member sent twice":         {`{"settings":{},"settings":{}}`, record.InputSyntax, "settings"},
		"null, then a value":        {`{"settings":null,"settings":{}}`, record.InputSyntax, "settings"},
		"consumer_id a number":      {`{"consumer_id":1}`, record.InputSyntax, "consumer_id"},
		"credentials not an object": {`{"credentials":"x"}`, record.InputSyntax, "credentials"},
		"unknown credential":        {`{"credentials":{"client_secret":"x"}}`, record.InputSyntax, `"credentials.client_secret"`},
		"token sent twice":          {`{"credentials":{"access_token":"a","access_token":"b"}}`, record.InputSyntax, "credentials.access_token"},
		"access token a number":     {`{"credentials":{"access_token":1}}`, record.InputSyntax, "credentials.access_token"},
		"line break in a token":     {`{"credentials":{"access_token":"a\nb","refresh_token":"r"}}`, record.InputInvalid, "credentials.access_token"},
		"the word null":             {`{"credentials":{"access_token":"a","refresh_token":"null"}}`, record.InputInvalid, "credentials.refresh_token"},
		"only blanks":               {`{"credentials":{"access_token":" \n","refresh_token":"r"}}`, record.InputInvalid, "credentials.access_token"},
		"no-break space in a token": {`{"credentials":{"access_token":"a\u00a0b","refresh_token":"r"}}`, record.InputInvalid, "credentials.access_token"},
		"unknown beside a scope":    {`{"credentials":{` + tokens + `,"scope":"x","acess_token":"x"}}`, record.InputSyntax, `"credentials.acess_token"`},
		"response, negative":        {`{"credentials":{` + tokens + `,"token_type":"bearer","expires_in":"-1"}}`, record.InputInvalid, "credentials.expires_in"},
		"response, no lifetime":     {`{"credentials":{` + tokens + `,"token_type":"bearer","expires_in":"soon"}}`, record.InputSyntax, "credentials.expires_in"},
		"response, no access token": {`{"credentials":{"token_type":"bearer","access_token":{}}}`, record.InputSyntax, "credentials.access_token"},
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
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			imp, err := ParseImport([]byte(test.body))
			if imp != nil {
				t.Errorf("got %+v along with the error", imp)
			}
			wantInputError(t, err, test.kind, test.field)
		})
	}
}

func TestErrorsQuoteNoSecretOfABody(t *testing.T) {
	t.Parallel()
	const canary = brokertest.RefreshCanary
	for _, body := range []string{
		`{"credentials":"` + canary + `"}`,
		`{"credentials":{"refresh_token":"` + canary + `\nx"}}`,
		`{"credentials":{"refresh_token":["` + canary + `"]}}`,
		`{"credentials":{"issued_at":"` + canary + `"}}`,
		`{"settings":"` + canary + `"}`,
		`{"credentials":{"refresh_token":"` + canary,
		`{"credentials":` + canary + `}`,
		`{} ` + canary,
	} {
		_, err := ParseImport([]byte(body))
		if err == nil {
			t.Fatalf("%s: no error", body)
		}
		brokertest.NoCanary(t, body, []byte(err.Error()))
	}
}

// A token that was sent as a name comes back, but not whole.
func TestUnknownNamesAreTruncated(t *testing.T) {
	t.Parallel()
	name := strings.Repeat("\u00e4", 100)
	_, err := ParseImport([]byte(`{"` + name + `":1}`))
	wantInputError(t, err, record.InputSyntax, `"`+strings.Repeat("\u00e4", 20)+`..."`)
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
		imp, err := ParseImport(body)
		if err != nil {
			if _, ok := errors.AsType[*record.InputError](err); !ok {
				t.Fatalf("error %v is not an InputError", err)
			}
			return
		}
		if !json.Valid(body) {
			t.Fatal("accepted a body that is not JSON")
		}
		if c := imp.Credentials; c != nil && c.ExpiresIn != nil && *c.ExpiresIn < 0 {
			t.Fatalf("accepted a negative lifetime: %v", *c.ExpiresIn)
		}
	})
}
