package record

import (
	"fmt"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func TestCapturedSettingsAreThoseThatTheConnectorAllows(t *testing.T) {
	t.Parallel()
	conn := &Connector{Definition: connector.Definition{
		AuthType: connector.OAuth2, BaseURL: "{site}", AllowHosts: []string{"*.acme.test"},
		Settings: []connector.Setting{{Name: "site", Origin: true}, {Name: "account"}},
	}}
	allowed, refused := conn.Captured(nil, map[string]string{"site": "https://a.evil.test", "account": "7", "other": "x"})
	if got := fmt.Sprint(allowed, refused); got != "map[account:7] [other site]" {
		t.Errorf("got %s", got)
	}
}

func TestSuccessTakesOverWhatTheAnswerSays(t *testing.T) {
	t.Parallel()
	sentAt := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	settings := map[string]any{"site": "https://a.acme.test", "kept": "x"}
	rec := &Record{Settings: settings, Credentials: &Credentials{RefreshToken: secret.New("r1"), Lifetime: time.Hour}}
	rec.Succeed(Answer{
		AccessToken: secret.New("a2"), RefreshToken: secret.New("r2"), SentAt: sentAt,
		RefreshLifetime: 24 * time.Hour, Captured: map[string]string{"site": "https://b.acme.test"},
	})
	if c := rec.Credentials; c.Lifetime != time.Hour || !c.Expiry.IsZero() || !c.RefreshExpiry.Equal(sentAt.Add(24*time.Hour)) {
		t.Errorf("lifetime %v, expiry %v, refresh token until %v", c.Lifetime, c.Expiry, c.RefreshExpiry)
	}
	if got := fmt.Sprint(rec.Settings); got != "map[kept:x site:https://b.acme.test]" {
		t.Errorf("got settings %s", got)
	}
	if settings["site"] != "https://a.acme.test" {
		t.Error("the settings of an earlier snapshot were changed")
	}
	// A refresh token that stays keeps its end; another one has none until an answer says so.
	rec.Succeed(Answer{AccessToken: secret.New("a3"), Lifetime: time.Minute, SentAt: sentAt})
	if c := rec.Credentials; c.RefreshExpiry.IsZero() || c.Lifetime != time.Minute || !c.Expiry.Equal(sentAt.Add(time.Minute)) {
		t.Errorf("lifetime %v, expiry %v, refresh token until %v", c.Lifetime, c.Expiry, c.RefreshExpiry)
	}
	rec.Succeed(Answer{AccessToken: secret.New("a4"), RefreshToken: secret.New("r3"), SentAt: sentAt})
	if c := rec.Credentials; !c.RefreshExpiry.IsZero() {
		t.Errorf("the end of the replaced refresh token counts for the new one: %v", c.RefreshExpiry)
	}
}

func TestRefreshTokenIsKeptAliveForAsLongAsTheEndpointSaid(t *testing.T) {
	t.Parallel()
	issued := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		keepAlive, told time.Duration
		after           time.Duration
		want            bool
	}{
		"neither":             {0, 0, 10000 * time.Hour, false},
		"told, early":         {0, 40 * time.Hour, 29 * time.Hour, false},
		"told, late":          {0, 40 * time.Hour, 31 * time.Hour, true},
		"told more than said": {40 * time.Hour, 400 * time.Hour, 31 * time.Hour, true},
		"told less than said": {400 * time.Hour, 40 * time.Hour, 31 * time.Hour, true},
		"said":                {40 * time.Hour, 0, 31 * time.Hour, true},
		"nearly over":         {0, time.Minute, 2 * time.Minute, false},
	} {
		rec := &Record{Enabled: true, Credentials: &Credentials{RefreshToken: secret.New("r"), IssuedAt: issued}}
		if test.told > 0 {
			rec.Credentials.RefreshExpiry = issued.Add(test.told)
		}
		conn := &Connector{Definition: connector.Definition{AuthType: connector.OAuth2, KeepAlive: test.keepAlive}}
		if got := rec.IsNeglected(conn, issued.Add(test.after)); got != test.want {
			t.Errorf("%s: got %t, want %t", name, got, test.want)
		}
	}
}
