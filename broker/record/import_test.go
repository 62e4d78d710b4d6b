package record_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func TestImportRequiresWhatTheAuthTypeNeeds(t *testing.T) {
	t.Parallel()
	oauth, optional := connector.Definition{}, connector.Definition{RefreshTokenOptional: true}
	fetched := connector.Definition{GrantType: connector.ClientCredentials}
	password := connector.Definition{GrantType: connector.Password}
	keyed := connector.Definition{AuthType: connector.APIKey}
	for name, test := range map[string]struct {
		def         connector.Definition
		credentials *record.ImportCredentials
		settings    string
		field       string // empty: good
	}{
		"both tokens":                    {oauth, undated("a", "r"), `{}`, ""},
		"no credentials":                 {oauth, nil, `{}`, "credentials.access_token"},
		"only settings, new":             {oauth, nil, `{"a":1}`, "credentials.access_token"},
		"empty credentials":              {oauth, undated("", ""), `{}`, "credentials.access_token"},
		"only a refresh token":           {oauth, undated("", "r"), `{}`, ""},
		"no refresh token":               {oauth, undated("a", ""), `{}`, "credentials.refresh_token"},
		"optional refresh token":         {optional, undated("a", ""), `{}`, ""},
		"client credentials, no refresh": {fetched, undated("a", ""), `{}`, ""},
		"client credentials, no token":   {fetched, nil, `{}`, ""},
		"client credentials, empty":      {fetched, undated("", ""), `{}`, ""},
		"password":                       {password, nil, `{"username":"u","password":"p"}`, ""},
		"no password":                    {password, nil, `{"username":"u"}`, "settings.password"},
		"tokens, but no password":        {password, undated("a", "r"), `{"username":"u"}`, "settings.password"},
		"API key":                        {keyed, nil, `{"api_key":"k"}`, ""},
		"API key missing":                {keyed, nil, `{"other":"k"}`, "settings.api_key"},
		"API key null":                   {keyed, nil, `{"api_key":null}`, "settings.api_key"},
		"API key with a line break":      {keyed, nil, `{"api_key":"x\r\nHost: evil.test"}`, "settings.api_key"},
		"tokens for an API key":          {keyed, undated("a", ""), `{"api_key":"k"}`, "credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, test.def)
			outcome, err := c.try(&record.Import{Credentials: test.credentials, Settings: object(t, test.settings)})
			wantInputError(t, err, test.field, "")
			if err == nil && (outcome != record.ImportStored || c.Generation != 1) {
				t.Errorf("got %q, generation %d, want stored and 1", outcome, c.Generation)
			}
			if err != nil && strings.Contains(err.Error(), "evil") {
				t.Errorf("the error quotes the setting: %v", err)
			}
		})
	}
}

func TestImportQueuesARefreshWhenTheTokenMayBeExpired(t *testing.T) {
	t.Parallel()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	var unknown time.Time
	for name, test := range map[string]struct {
		issuedAt  time.Time
		expiresIn *time.Duration
		expiresAt time.Time
		want      bool
	}{
		"fresh":                      {ago(time.Minute), new(time.Hour), unknown, false},
		"expired":                    {ago(2 * time.Hour), new(time.Hour), unknown, true},
		"expires at once":            {now, new(time.Duration(0)), unknown, true},
		"no issued_at":               {unknown, new(time.Hour), unknown, true},
		"no expires_in":              {ago(time.Minute), nil, unknown, true},
		"neither":                    {unknown, nil, unknown, true},
		"expires_at":                 {ago(time.Minute), nil, ago(-time.Hour), false},
		"expires_at wins":            {ago(time.Minute), new(time.Hour), ago(time.Second), true},
		"expires_at, no issued_at":   {unknown, nil, ago(-time.Hour), false},
		"expires_at and expires_in":  {unknown, new(time.Hour), ago(-time.Hour), false},
		"expires_at in the past":     {unknown, nil, ago(time.Second), true},
		"issued in the future":       {ago(-24 * time.Hour), new(time.Hour), unknown, false},
		"lifetime in milliseconds":   {ago(2 * time.Hour), new(1000 * time.Hour), unknown, false},
		"lifetime of half a century": {now, new(50 * 365 * 24 * time.Hour), unknown, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, connector.Definition{})
			sent := undated("a", "r")
			sent.IssuedAt, sent.ExpiresIn, sent.ExpiresAt = test.issuedAt, test.expiresIn, test.expiresAt
			if got := c.mustImport(sent); got != record.ImportStored {
				t.Fatalf("got %q, want stored", got)
			}
			if c.Cycle.Queued != test.want {
				t.Errorf("queued: %v, want %v", c.Cycle.Queued, test.want)
			}
			if c.Credentials.IssuedAt.After(now) {
				t.Errorf("issued at %v, in the future", c.Credentials.IssuedAt)
			}
		})
	}
}

// Without a refresh token there is nothing to refresh with.
func TestImportQueuesNoRefreshThatIsImpossible(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{RefreshTokenOptional: true})
	if c.mustImport(undated("a", "")); c.Cycle.Queued {
		t.Error("a refresh is queued")
	}
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
			c := connect(t, connector.Definition{})
			for _, part := range []string{test.stored, test.sent} {
				c.must(&record.Import{Credentials: tokens("a", "r", 0), Settings: object(t, part), Metadata: object(t, part)})
			}
			for what, got := range map[string]map[string]any{"settings": c.Settings, "metadata": c.Metadata} {
				if encoded, _ := json.Marshal(got); string(encoded) != test.want {
					t.Errorf("%s: got %s, want %s", what, encoded, test.want)
				}
			}
		})
	}
}

func TestMergeSharesNothingWithWhatWasSent(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{})
	sent := object(t, `{"a":{"b":[1]}}`)
	c.must(&record.Import{Credentials: tokens("a", "r", 0), Metadata: sent})
	sent["a"].(map[string]any)["b"].([]any)[0] = "changed"
	if got, _ := json.Marshal(c.Metadata); string(got) != `{"a":{"b":[1]}}` {
		t.Errorf("got %s: it changed with the caller's", got)
	}
}

func TestImportOfOnlySettingsKeepsCredentials(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{})
	c.mustImport(tokens("a1", "r1", 0))
	for _, credentials := range []*record.ImportCredentials{nil, undated("", "")} {
		if got := c.must(&record.Import{Credentials: credentials, Settings: object(t, `{"realm":"1"}`)}); got != record.ImportKept {
			t.Errorf("got %q, want kept", got)
		}
	}
	if c.Credentials.RefreshToken.Reveal() != "r1" || c.Settings["realm"] != "1" {
		t.Errorf("got settings %v, or the refresh token changed", c.Settings)
	}
	if c.Generation != 1 {
		t.Errorf("got generation %d, want 1", c.Generation)
	}
}

func TestSettingThatDoesNotFitIsRefused(t *testing.T) {
	t.Parallel()
	def := connector.Definition{
		TokenURL: "https://{tenant}.acme.test/token", BaseURL: "https://{tenant}.acme.test",
		AllowHosts: []string{"*.acme.test"}, Settings: []connector.Setting{{Name: "tenant", Required: true}},
	}
	for setting, good := range map[string]bool{
		`"eu"`: true, `"evil.test/x"`: false, `"a.b"`: false, `"x#"`: false, `"-"`: false, `["eu"]`: false, `7`: true,
	} {
		sent := object(t, `{"tenant":`+setting+`}`)
		field := "settings.tenant"
		if good {
			field = ""
		}
		_, err := connect(t, def).try(&record.Import{Credentials: tokens("a", "r", 0), Settings: sent})
		wantInputError(t, err, field, "fits crm/acme")
		c := connect(t, def)
		c.mustImport(tokens("a", "r", 0))
		wantInputError(t, c.update(&record.Update{Settings: sent}), field, "fits crm/acme")
	}
}

// Merging could make settings and metadata grow for ever.
func TestSettingsAndMetadataAreBoundedTogether(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{})
	big := func(kib int) map[string]any { return map[string]any{"a": strings.Repeat("x", kib<<10)} }
	c.must(&record.Import{Credentials: tokens("a", "r", 0), Settings: big(150)})
	_, err := c.try(&record.Import{Metadata: big(110)})
	wantInputError(t, err, "settings and metadata", "null removes a member")
	wantInputError(t, c.update(&record.Update{Metadata: big(110)}), "settings and metadata", "null removes a member")
	if err := c.update(&record.Update{Metadata: big(100)}); err != nil {
		t.Error(err)
	}
	_, err = c.try(&record.Import{Settings: map[string]any{"a": func() {}}})
	if input, ok := errors.AsType[*record.InputError](err); !ok || input.Kind != record.InputSyntax {
		t.Errorf("settings that cannot be encoded: got %v, want an InputError", err)
	}
}

func TestReimportOfAnotherGrantReplaces(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{})
	c.mustImport(tokens("a1", "r1", time.Hour/2))
	c.Lease = &record.Lease{ID: "x"}
	if got := c.mustImport(tokens("a2", "r2", time.Minute)); got != record.ImportStored {
		t.Errorf("got %q, want stored", got)
	}
	if c.Lease != nil {
		t.Error("the lease of the first grant is still held")
	}
	if got := c.mustImport(tokens("a1", "r1", 0)); got != record.ImportKept {
		t.Errorf("the first token again: got %q, want kept", got)
	}
	if got := c.Credentials.AccessToken.Reveal(); got != "a2" || c.Generation != 2 {
		t.Errorf("got token %q, generation %d, want a2 and 2", got, c.Generation)
	}
}

func TestReimportOfAnEarlierTokenIsKeptOut(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{})
	c.mustImport(tokens("a2", "r2", time.Minute))
	if got := c.mustImport(tokens("a1", "r1", time.Hour/2)); got != record.ImportKept {
		t.Errorf("issued earlier: got %q, want kept", got)
	}
	if got := c.mustImport(undated("a3", "r3")); got != record.ImportStored {
		t.Errorf("issued at an unknown time: got %q, want stored", got)
	}
}

func TestReimportOfTheSameGrantBringsALaterAccessToken(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{})
	c.mustImport(tokens("a1", "r1", time.Hour/2))
	if got := c.mustImport(tokens("a2", "r1", time.Minute)); got != record.ImportStored {
		t.Errorf("got %q, want stored", got)
	}
	for name, sent := range map[string]*record.ImportCredentials{
		"the earlier one again": tokens("a1", "r1", time.Hour/2), "the same one": tokens("a2", "r1", time.Minute),
		"of unknown age": undated("a3", "r1"), "no access token": tokens("", "r1", 0),
	} {
		if got := c.mustImport(sent); got != record.ImportKept {
			t.Errorf("%s: got %q, want kept", name, got)
		}
	}
	if got := c.Credentials.AccessToken.Reveal(); got != "a2" || c.Generation != 2 {
		t.Errorf("got token %q, generation %d, want a2 and 2", got, c.Generation)
	}
	c.Lease = &record.Lease{ID: "x"}
	if got := c.mustImport(tokens("a4", "r1", 0)); got != record.ImportKept {
		t.Errorf("during a refresh: got %q, want kept", got)
	}
}

func TestReimportIntoAParkedConnectionMayBeOlder(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{})
	c.mustImport(tokens("a1", "r1", 2*time.Hour))
	c.fail(record.ClassPermanent)
	if got := c.mustImport(tokens("a0", "r0", 3*time.Hour)); got != record.ImportStored {
		t.Errorf("got %q, want stored: the stored ones do not work", got)
	}
}

func TestReimportUnparksForOneAttempt(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{})
	c.mustImport(tokens("a1", "r1", 2*time.Hour))
	c.fail(record.ClassPermanent)
	if got := c.mustImport(tokens("a1", "r1", 2*time.Hour)); got != record.ImportKept {
		t.Errorf("got %q, want kept", got)
	}
	if c.IsParked() || !c.Cycle.Queued || !c.Cycle.RetryAt.IsZero() || !c.Cycle.CredentialsExpireAt.IsZero() {
		t.Errorf("parked %v, cycle %+v: want a refresh queued at once", c.IsParked(), c.Cycle)
	}
	if got := c.fail(record.ClassPermanent); got != "" {
		t.Errorf("the second refusal emits %q", got)
	}
}

// Sent again, a refresh token that may have been spent can cost the grant.
func TestReimportDoesNotHurryAnAmbiguousRefresh(t *testing.T) {
	t.Parallel()
	for class, waits := range map[record.Class]bool{record.ClassAmbiguous: true, record.ClassTransient: false} {
		c := connect(t, connector.Definition{})
		c.mustImport(tokens("a1", "r1", 0))
		c.fail(class)
		c.mustImport(tokens("a1", "r1", 0))
		if got := c.Cycle.RetryAt.Equal(now.Add(time.Hour)); got != waits {
			t.Errorf("%s: the next attempt is at %v, waits for the expiry: %v, want %v", class, c.Cycle.RetryAt, got, waits)
		}
	}
}

func TestImportRemembersTheLatestHashes(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{})
	for i := range 100 {
		c.mustImport(tokens(numbered("a", i), numbered("r", i), time.Duration(100-i)*time.Second))
	}
	if len(c.Imported) != 64 || len(c.Replaced) != 0 {
		t.Fatalf("got %d imported, %d replaced hashes, want 64 and 0", len(c.Imported), len(c.Replaced))
	}
	if got := c.mustImport(tokens("x", "r36", 0)); got != record.ImportKept {
		t.Errorf("a remembered one: got %q, want kept", got)
	}
	if got := c.mustImport(tokens("x", "r34", 0)); got != record.ImportStored {
		t.Errorf("a forgotten one: got %q, want stored", got)
	}
}

func TestRefreshRemembersReplacedHashes(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{})
	c.mustImport(tokens("a1", "r1", 2*time.Hour))
	for i := range 21 {
		c.succeed("a", numbered("refreshed-", i))
	}
	if len(c.Replaced) != 16 || len(c.Imported) != 1 {
		t.Errorf("got %d replaced, %d imported hashes, want 16 and 1", len(c.Replaced), len(c.Imported))
	}
	for _, refresh := range []string{"r1", "refreshed-4", "refreshed-19"} {
		if got := c.mustImport(tokens("a1", refresh, 0)); got != record.ImportKept {
			t.Errorf("%s after 21 refreshes: got %q, want kept", refresh, got)
		}
	}
	if got, want := c.Replaced[15], secret.New("refreshed-19").Hash(); got != want {
		t.Errorf("the last hash is %s, want %s", got, want)
	}
}
