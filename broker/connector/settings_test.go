package connector

import (
	"slices"
	"testing"
)

func TestMissingSettings(t *testing.T) {
	t.Parallel()
	d := Definition{
		BaseURL: "https://{sub}.acme.test/{id}", TokenURL: "https://a.test/{tenant}",
		Settings: []Setting{{Name: "key", Required: true}, {Name: "note"}, {Name: "sub"}, {Name: "id"}, {Name: "tenant"}},
	}
	tests := []struct {
		settings map[string]any
		want     []string
	}{
		{nil, []string{"key", "sub", "id", "tenant"}},
		{map[string]any{"key": "", "sub": nil, "id": "1", "tenant": "t"}, []string{"key", "sub"}},
		{map[string]any{"key": "k", "sub": "s", "id": 0, "tenant": "t"}, nil},
	}
	for _, tt := range tests {
		if got := d.MissingSettings(tt.settings); !slices.Equal(got, tt.want) {
			t.Errorf("%v: got %v, want %v", tt.settings, got, tt.want)
		}
	}
}

func TestSensitiveSettings(t *testing.T) {
	t.Parallel()
	d := Definition{Settings: []Setting{{Name: "pin", Sensitive: true}, {Name: "token_type"}}}
	for name, want := range map[string]bool{
		"pin": true, "token_type": false, // declared
		"client_secret": true, "Access-Token": true, "userPassword": true, "passwd": true, "api_key": true, "X-Api-Key": true,
		"privateKey": true, "credentials": true, "apikey": true,
		"realm_id": false, "instance_url": false, "username": false, "key": false, "": false,
	} {
		if got := d.IsSensitive(name); got != want {
			t.Errorf("%q: got %t, want %t", name, got, want)
		}
	}
}

func TestLabelsAreMadeFromNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"realm_id": "Realm ID", "api_key": "API key", "instance_url": "Instance URL", "google-drive": "Google drive", "x": "X"} {
		if got := labelFor(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestSettingWithADefaultIsNeverMissing(t *testing.T) {
	t.Parallel()
	d := acme()
	d.TokenURL, d.AllowHosts = "{login}/token", []string{"*.acme.test"}
	d.Settings = []Setting{{Name: "login", Origin: true, Default: "https://auth.acme.test"}}
	if err := d.Validate(); err != nil {
		t.Fatal(err)
	}
	d = d.WithDefaults()
	if missing := d.MissingSettings(nil); len(missing) > 0 {
		t.Errorf("missing: %v", missing)
	}
	for value, want := range map[any]string{nil: "https://auth.acme.test/token", "": "https://auth.acme.test/token", "https://eu.acme.test": "https://eu.acme.test/token"} {
		if got, err := d.RenderTokenURL(map[string]any{"login": value}); err != nil || got != want {
			t.Errorf("%v: got %s, %v, want %s", value, got, err, want)
		}
	}
}
