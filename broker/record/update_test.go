package record_test

import (
	"errors"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestUpdateOfNothingIsUnchanged(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{})
	c.must(&record.Import{
		Credentials: tokens("a1", "r1", 0),
		Settings:    object(t, `{"note":"x","secret_note":"s"}`), Metadata: object(t, `{"n":1.50}`),
	})
	for name, up := range map[string]*record.Update{
		"nothing": {},
		"the same": {
			Enabled: new(true), Settings: object(t, `{"note":"x","secret_note":"********"}`), Metadata: object(t, `{"n":1.50,"absent":null}`),
		},
	} {
		if err := c.update(up); !errors.Is(err, record.ErrUnchanged) {
			t.Errorf("%s: got %v, want ErrUnchanged", name, err)
		}
	}
	for name, up := range map[string]*record.Update{
		"enabled": {Enabled: new(false)}, "settings": {Settings: object(t, `{"note":null}`)}, "metadata": {Metadata: object(t, `{"n":1.5}`)},
	} {
		if err := c.update(up); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, ok := c.Settings["note"]; ok || c.Enabled {
		t.Errorf("got settings %v, enabled %v: not all was changed", c.Settings, c.Enabled)
	}
}

func TestUpdateOfCredentialsRaisesTheGeneration(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{AuthType: connector.APIKey})
	c.must(&record.Import{Settings: object(t, `{"api_key":"k","region":"eu"}`)})
	for _, step := range []struct {
		name string
		up   *record.Update
		want uint64
	}{
		{"a setting that is not injected", &record.Update{Settings: object(t, `{"region":"us"}`)}, 1},
		{"a mask", &record.Update{Settings: object(t, `{"api_key":"********"}`), Metadata: object(t, `{"a":1}`)}, 1},
		{"another key", &record.Update{Settings: object(t, `{"api_key":"another"}`)}, 2},
		{"switched off", &record.Update{Enabled: new(false)}, 2},
		{"no key", &record.Update{Settings: object(t, `{"api_key":null}`)}, 3},
	} {
		if err := c.update(step.up); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		if c.Generation != step.want {
			t.Errorf("%s: got generation %d, want %d", step.name, c.Generation, step.want)
		}
	}
}
