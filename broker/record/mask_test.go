package record_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestMaskedSettingSentBackStaysAsItWas(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{AuthType: connector.APIKey})
	c.must(&record.Import{Settings: map[string]any{"api_key": brokertest.SettingCanary, "region": "eu"}})
	shown := c.View(&c.conn.Definition, now).Settings
	if want := map[string]any{"api_key": record.Mask, "region": "eu"}; !reflect.DeepEqual(shown, want) {
		t.Errorf("got settings %v, want %v", shown, want)
	}
	c.must(&record.Import{Settings: shown})
	if got := c.Settings["api_key"]; got != brokertest.SettingCanary {
		t.Errorf("after an import: got %v", got)
	}
	if err := c.update(&record.Update{Settings: shown}); !errors.Is(err, record.ErrUnchanged) {
		t.Errorf("an update: got %v, want ErrUnchanged", err)
	}
}

func TestMaskInsideASettingStaysAsItWas(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{})
	c.must(&record.Import{
		Credentials: tokens("a", "r", 0),
		Settings:    object(t, `{"proxy":{"user":"u","password":"`+brokertest.SettingCanary+`"},"keys":[{"a":[{"api_key":"k"}]}]}`),
	})
	shown, _ := json.Marshal(c.View(&c.conn.Definition, now).Settings)
	if want := `{"keys":[{"a":[{"api_key":"********"}]}],"proxy":{"password":"********","user":"u"}}`; string(shown) != want {
		t.Errorf("shown are %s, want %s", shown, want)
	}
	c.must(&record.Import{Settings: object(t, `{"proxy":{"user":"v","password":"********"},"keys":[{"a":[{"api_key":"********"}]}]}`)})
	stored, _ := json.Marshal(c.Settings)
	if want := `{"keys":[{"a":[{"api_key":"k"}]}],"proxy":{"password":"` + brokertest.SettingCanary + `","user":"v"}}`; string(stored) != want {
		t.Errorf("stored are %s, want %s", stored, want)
	}
}

func TestOnlySensitiveSettingsWithAValueAreMasked(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{Settings: []connector.Setting{{Name: "pin", Sensitive: true}}})
	for stored, want := range map[string]string{
		`{"pin":1234}`:                   `{"pin":"********"}`,
		`{"pin":""}`:                     `{"pin":""}`,
		`{"pin":{"a":"b"}}`:              `{"pin":"********"}`,
		`{"note":"********"}`:            `{"note":"********"}`,
		`{"list":[["x"],{"pin":"1"}]}`:   `{"list":[["x"],{"pin":"********"}]}`,
		`{"client_secret":"s","id":"i"}`: `{"client_secret":"********","id":"i"}`,
	} {
		c.Settings = object(t, stored)
		if got, _ := json.Marshal(c.View(&c.conn.Definition, now).Settings); string(got) != want {
			t.Errorf("%s: got %s, want %s", stored, got, want)
		}
	}
}

func TestMaskOfASettingThatIsNotSensitiveIsItsValue(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{})
	const text = `{"list":["********"],"note":"********"}`
	c.must(&record.Import{Credentials: tokens("a", "r", 0), Settings: object(t, text)})
	if got, _ := json.Marshal(c.Settings); string(got) != text {
		t.Errorf("got %s, want %s", got, text)
	}
}
