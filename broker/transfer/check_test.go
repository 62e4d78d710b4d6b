package transfer

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

func checked(t *testing.T, check Check, options Options, row string) (refused Reason, doubts []Reason) {
	t.Helper()
	c, err := NewConverter(options)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Convert(&Record{Number: 1, text: row})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)
	if p := check.Refuse(res, now); p != nil {
		if strings.Contains(p.Text, "SECRET") {
			t.Errorf("the error quotes a value: %s", p.Text)
		}
		return p.Reason, nil
	}
	for _, p := range check.Doubts(res) {
		doubts = append(doubts, p.Reason)
	}
	slices.Sort(doubts)
	return "", doubts
}

func TestRowsThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	for token, want := range map[string]Reason{
		`{\"p\":\"SECRET\",\"h\":{}}`: ReasonEncrypted,
		"eyJpdiI6SECRET":              ReasonEncrypted,
		"gAAAAABSECRET":               ReasonEncrypted,
		"SECRET...":                   ReasonTruncated,
		"SECRET…":                     ReasonTruncated,
		"eyJhbGciOiJIUzI1NiJ9.a.b":    "",
	} {
		for _, member := range []string{`"credentials":{"access_token":"a","refresh_token":"%"}`, `"credentials":{"access_token":"%","refresh_token":"r"}`, `"settings":{"api_key":"%"}`} {
			if strings.Contains(token, "…") && strings.Contains(member, "credentials") {
				continue // no token: the parser refuses it
			}
			if got, _ := checked(t, Check{}, Options{}, janeHubspot+","+strings.Replace(member, "%", token, 1)+"}"); got != want {
				t.Errorf("%s in %s: got %q, want %q", token, member, got, want)
			}
		}
	}
}

func TestRowsThatAreDoubtfulAreNamed(t *testing.T) {
	t.Parallel()
	check := Check{ClientIDs: map[connector.ID]string{{UnifiedAPI: "crm", ServiceID: "hubspot"}: "ours"}}
	for row, want := range map[string][]Reason{
		`"refresh_token":"r","access_token":"` + strings.Repeat("a", 255) + `"`: {ReasonLength},
		`"refresh_token":"` + strings.Repeat("a", 1000) + `"`:                   {ReasonLength},
		`"access_token":"a"`: {ReasonNoRefresh},
		`"access_token":"a","refresh_token":"r","client_id":"ours"`:   nil,
		`"access_token":"a","refresh_token":"r","client_id":"theirs"`: {ReasonClient},
	} {
		_, got := checked(t, check, Options{Format: "oauth2-token", Connectors: hubspot}, `{"consumer_id":"j","provider":"hubspot",`+row+`}`)
		if !slices.Equal(got, want) {
			t.Errorf("%.90s: got %v, want %v", row, got, want)
		}
	}
}

func TestMinLifetimeRefusesTokensThatExpireSoon(t *testing.T) {
	t.Parallel()
	for credentials, want := range map[string]Reason{
		`"expires_at":"2026-01-02T15:30:00Z"`:                  ReasonShortLived,
		`"expires_at":"2026-01-02T16:30:00Z"`:                  "",
		`"issued_at":"2026-01-02T14:45:00Z","expires_in":3600`: ReasonShortLived,
		`"issued_at":"2026-01-02T14:45:00Z","expires_in":7200`: "",
		`"expires_in":60`: "", // since when is unknown
	} {
		row := janeHubspot + `,"credentials":{"access_token":"a","refresh_token":"r",` + credentials + `}}`
		if got, _ := checked(t, Check{MinLifetime: time.Hour}, Options{}, row); got != want {
			t.Errorf("%s: got %q, want %q", credentials, got, want)
		}
		if got, _ := checked(t, Check{}, Options{}, row); got != "" {
			t.Errorf("%s: got %q without a minimum", credentials, got)
		}
	}
}

func TestAConnectorWithoutAClientIsNamed(t *testing.T) {
	t.Parallel()
	check := Check{ClientIDs: map[connector.ID]string{{UnifiedAPI: "crm", ServiceID: "hubspot"}: ""}}
	row := janeHubspot + `,"credentials":{"access_token":"a","refresh_token":"r"}`
	if _, got := checked(t, check, Options{}, row+"}"); !slices.Equal(got, []Reason{ReasonNoClient}) {
		t.Errorf("got %v", got)
	}
	if _, got := checked(t, check, Options{}, row+`,"settings":{"client_id":"own"}}`); got != nil {
		t.Errorf("got %v for a connection with its own client", got)
	}
}
