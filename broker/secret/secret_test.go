package secret_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func TestSecretsShowNothingOfThemselves(t *testing.T) {
	t.Parallel()
	token := secret.New(brokertest.AccessCanary)
	rec := &record.Record{
		Settings:    map[string]any{"api_key": brokertest.SettingCanary},
		Credentials: &record.Credentials{AccessToken: token, RefreshToken: secret.New(brokertest.RefreshCanary)},
	}
	client := record.Client{ID: "id", Secret: secret.New(brokertest.ClientSecretCanary)}
	for name, value := range map[string]any{
		"secret": token, "pointer": &token, "slice": []secret.String{token}, "map": map[string]secret.String{"k": token},
		"record": rec, "credentials": rec.Credentials, "credentials by value": *rec.Credentials, "client": client, "token": broker.Token{AccessToken: token},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
			brokertest.NoCanary(t, name+" as "+verb, fmt.Appendf(nil, verb, value))
		}
		brokertest.NoCanary(t, name+" with Print", fmt.Append(nil, value))
		encoded, err := json.Marshal(value)
		if err != nil {
			t.Errorf("%s as JSON: %v", name, err)
		}
		brokertest.NoCanary(t, name+" as JSON", encoded)
		if encoded, err := xml.Marshal(value); err == nil {
			brokertest.NoCanary(t, name+" as XML", encoded)
		}
		var log bytes.Buffer
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "value", value)
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "value", value)
		brokertest.NoCanary(t, name+" in a log", log.Bytes())
	}
	if fmt.Sprint(token) != "REDACTED" || token.Reveal() != brokertest.AccessCanary {
		t.Errorf("got %v, want REDACTED", token)
	}
}

func TestSecretHashTellsTokensApart(t *testing.T) {
	t.Parallel()
	a, b := secret.New("a"), secret.New("b")
	if a.Hash() == b.Hash() || a.Hash() != secret.New("a").Hash() {
		t.Error("the hash does not tell tokens apart")
	}
}
