package export_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/export"
	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
)

func TestNangoBodies(t *testing.T) {
	t.Parallel()
	const name = `{"app":"app","consumer_id":"ann","unified_api":"crm","service_id":"acme"`
	const ids = `{"provider_config_key":"acme","connection_id":"ann","credentials":`
	for row, want := range map[string]string{
		`,"credentials":{"access_token":"a<t","refresh_token":"rt","expires_at":"2026-05-06T08:08:09Z"},"settings":{"region":"eu"},"metadata":{"k":[1]}}`://
		ids + `{"type":"OAUTH2","access_token":"a<t","refresh_token":"rt","expires_at":"2026-05-06T08:08:09Z"},"connection_config":{"region":"eu"},"metadata":{"k":[1]}}`,
		`,"credentials":{"access_token":"at"}}`:           ids + `{"type":"OAUTH2","access_token":"at"}}`,
		`,"settings":{"api_key":"k","region":"eu"}}`:      ids + `{"type":"API_KEY","apiKey":"k"},"connection_config":{"region":"eu"}}`,
		`,"settings":{"username":"u","password":"p"}}`:    ids + `{"type":"BASIC","username":"u","password":"p"}}`,
		`,"settings":{"username":"u"}}`:                   ids + `{"type":"BASIC","username":"u","password":""}}`,
		`,"credentials":{"refresh_token":"rt"}}`:          "no access token",
		`,"settings":{"token_of_another_kind":"secret"}}`: "neither tokens",
	} {
		parsed, err := transfer.ParseRow([]byte(name + row))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err = export.NewNangoWriter(&out).Write(parsed)
		if !strings.HasPrefix(want, "{") {
			if !errors.Is(err, export.ErrNotInNango) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") || out.Len() > 0 {
				t.Errorf("%s: got %v, %s; want an error with %q", row, err, &out, want)
			}
			continue
		}
		if got := out.String(); err != nil || got != want+"\n" {
			t.Errorf("got %v\n%s\nwant\n%s", err, got, want)
		}
		if _, ok := parsed.Settings["region"]; !ok && strings.Contains(row, "region") {
			t.Error("the row's own settings were changed")
		}
	}
}
