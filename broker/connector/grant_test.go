package connector

import (
	"errors"
	"fmt"
	"testing"
)

func TestGrantsSayHowTokensAreObtained(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		grant                                        GrantType
		fetches, ignores, fallsBack, needs, settings bool
		rotation                                     RotationKind
	}{
		{"", false, false, false, false, false, RotationAlways},
		{AuthorizationCode, false, false, false, false, false, RotationAlways},
		{ClientCredentials, true, true, false, true, false, RotationNever},
		{Password, true, false, true, false, true, RotationAlways},
	} {
		d := acme()
		d.GrantType = tt.grant
		g := d.Grant()
		if g.Fetches != tt.fetches || g.IgnoresRefreshTokens != tt.ignores || g.FallsBack != tt.fallsBack || g.NeedsClientSecret != tt.needs {
			t.Errorf("%q: got %+v", tt.grant, g)
		}
		if got := len(g.settings) > 0; got != tt.settings {
			t.Errorf("%q: has settings: %t, want %t", tt.grant, got, tt.settings)
		}
		if got := d.WithDefaults().Rotation.Kind; got != tt.rotation {
			t.Errorf("%q: rotation %s, want %s", tt.grant, got, tt.rotation)
		}
	}
	for name, d := range map[string]Definition{"another auth type": {AuthType: APIKey, GrantType: Password}, "another grant": {AuthType: OAuth2, GrantType: "x"}} {
		if g := d.Grant(); g.Type != "" || g.Fetches || d.FetchesTokens() {
			t.Errorf("%s: got %+v", name, g)
		}
	}
}

func TestPasswordGrantSendsTheUsersCredentials(t *testing.T) {
	t.Parallel()
	d := acme()
	if params, err := d.GrantParams(nil); err != nil || len(params) != 0 {
		t.Errorf("authorization code: got %v, %v", params, err)
	}
	d.GrantType = Password
	d = d.WithDefaults()
	params, err := d.GrantParams(map[string]any{"username": "ann", "password": "s3cret"})
	if err != nil || fmt.Sprint(params) != "map[password:s3cret username:ann]" {
		t.Errorf("got %v, %v", params, err)
	}
	for missing, settings := range map[string]map[string]any{"username": {"password": "x"}, "password": {"username": "ann"}} {
		var fault *SettingError
		if _, err := d.GrantParams(settings); !errors.As(err, &fault) || fault.Setting != missing || !fault.IsMissing() {
			t.Errorf("got %v, want that %s is missing", err, missing)
		}
	}
	if got := fmt.Sprint(d.IdentitySettings()); got != "[password username]" {
		t.Errorf("got %s", got)
	}
}
