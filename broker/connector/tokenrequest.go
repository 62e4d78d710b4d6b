package connector

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// FetchesTokens reports whether tokens are had with what the configuration or the
// settings say, whenever one is needed, so that no import has to bring any.
func (d *Definition) FetchesTokens() bool {
	return d.AuthType == OAuth2 && (d.GrantType == ClientCredentials || d.GrantType == Password)
}

// OwnClient returns the OAuth client that a connection with these settings has of its
// own. That takes a connector which declares the setting client_id, and a connection
// which has it; without a client secret it is a public client (RFC 6749 section 2.1).
func (d *Definition) OwnClient(settings map[string]any) (id, secret string, ok bool) {
	if !d.TakesClient() {
		return "", "", false
	}
	id, err := d.settingText(settingClientID, settings)
	if err != nil {
		return "", "", false
	}
	if d.setting(settingClientSecret) != nil {
		secret, _ = d.settingText(settingClientSecret, settings) // missing: a public client
	}
	return id, secret, true
}

// TakesClient reports whether connections can have an OAuth client of their own.
func (d *Definition) TakesClient() bool {
	return d.AuthType == OAuth2 && d.setting(settingClientID) != nil
}

// UserPass returns the resource owner's name and password of the password grant
// (RFC 6749 section 4.3). A setting that is missing is a [*SettingError].
func (d *Definition) UserPass(settings map[string]any) (username, password string, err error) {
	if username, err = d.credentialText(settingUsername, settings); err != nil {
		return "", "", err
	}
	password, err = d.credentialText(settingPassword, settings)
	return username, password, err
}

// RenderTokenParams returns token_params for a connection with these settings. A
// setting that is missing or does not fit is a [*SettingError].
func (d *Definition) RenderTokenParams(settings map[string]any) (map[string]string, error) {
	params := make(map[string]string, len(d.TokenParams))
	for name, s := range d.TokenParams {
		t, err := d.text(s)
		if err != nil {
			return nil, err
		}
		if params[name], err = t.render(func(setting string) (string, error) {
			value, err := d.credentialText(setting, settings)
			if err == nil && hasControl(value) {
				err = d.settingError(setting, faultControl)
			}
			return value, err
		}); err != nil {
			return nil, err
		}
	}
	return params, nil
}

// IdentitySettings are the settings that say for whom tokens are fetched, see
// [Definition.TokenSettings]. It is nil unless [Definition.FetchesTokens]. Tokens that
// were fetched with other values of these are those of somebody else.
func (d *Definition) IdentitySettings() []string {
	if !d.FetchesTokens() {
		return nil
	}
	return d.TokenSettings()
}

// TokenSettings are the settings that have a part in token requests: where they go,
// with which client, for which user, with which parameters.
func (d *Definition) TokenSettings() []string {
	names := d.tokenSettings()
	for _, s := range []string{settingClientID, settingClientSecret, settingUsername, settingPassword} {
		if d.AuthType == OAuth2 && d.setting(s) != nil && (s != settingUsername && s != settingPassword || d.GrantType == Password) {
			names = append(names, s)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// VariesTokenRequests reports whether settings have a part in token requests, so that a
// refusal may be about one connection alone.
func (d *Definition) VariesTokenRequests() bool {
	return d.GrantType == Password || len(d.tokenSettings()) > 0
}

// tokenSettings are the settings that the addresses and the parameters of token
// requests have in them.
func (d *Definition) tokenSettings() []string {
	var names []string
	for _, s := range []string{d.TokenURL, d.RefreshURL} {
		if t, err := d.urlTemplate(s); err == nil {
			names = append(names, t.settings()...)
		}
	}
	for _, s := range d.TokenParams {
		if t, err := d.text(s); err == nil {
			names = append(names, t.settings()...)
		}
	}
	return names
}

// ownParams are the parameters of token requests that the grant or the client's
// authentication says (RFC 6749 sections 2.3.1, 4 and 6).
var ownParams = []string{
	"grant_type", "client_id", "client_secret", "client_assertion", "refresh_token", "username", "password", "code",
}

// secretParams are parts of the names of parameters whose values are secrets.
var secretParams = []string{"secret", "password", "passwd", "passphrase", "apikey", "privatekey"}

// tokenRequest checks what token requests consist of.
func (v *validation) tokenRequest() {
	switch v.d.TokenBody {
	case BodyForm, BodyJSON:
	default:
		v.fail("token_body", "%q is not form or json", v.d.TokenBody)
	}
	for _, name := range slices.Sorted(maps.Keys(v.d.TokenParams)) {
		value := v.d.TokenParams[name]
		if name == "" || hasControl(name) || hasControl(value) {
			v.fail("token_params", "%q needs a name, and neither name nor value may have control characters", name)
			continue
		}
		// Some services have a name of their own for the grant that needs no token.
		if slices.Contains(ownParams, name) && (name != "grant_type" || v.d.GrantType != ClientCredentials) {
			v.fail("token_params", "%s is what the grant says by itself: remove it", name)
			continue
		}
		t, err := parseText(value)
		if err != nil {
			v.fail("token_params", "%s %w", name, err)
			continue
		}
		plain := strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(name))
		if len(t.settings()) == 0 && slices.ContainsFunc(secretParams, func(w string) bool { return strings.Contains(plain, w) }) {
			v.fail("token_params", "%s is a secret by its name, which must not stand here: use a {setting} that is sensitive", name)
		}
		for _, s := range t.settings() {
			if v.d.setting(s) == nil {
				v.fail("token_params", "%s uses {%s}, which is not declared: add setting %s required", name, s, s)
			}
		}
	}
	if secret := v.d.setting(settingClientSecret); secret != nil {
		if !secret.Sensitive {
			v.fail("setting", "%s must be sensitive: add the word", settingClientSecret)
		}
		if v.d.setting(settingClientID) == nil {
			v.fail("setting", "%s needs the setting %s beside it: a connection has both or none", settingClientSecret, settingClientID)
		}
	}
}

// Destinations are the origins that settings alone decide, see [Definition.Destinations].
type Destinations [4]string

// Destinations returns where settings send what belongs to a connection: the origins
// of base_url, token_url, refresh_url and revocation_url, as far as settings decide
// their hosts. An origin is empty if they don't, or cannot yet.
func (d *Definition) Destinations(settings map[string]any) Destinations {
	var origins Destinations
	for i, s := range d.urls() {
		t, err := d.urlTemplate(s)
		if s == "" || err != nil || !t.isHostTemplated() {
			continue
		}
		if scheme, host, err := d.renderHost(t, settings); err == nil {
			origins[i] = fmt.Sprintf("%s://%s:%s", scheme, host.bracketed(), host.portFor(scheme))
		}
	}
	return origins
}

// DestinationSettings are the settings that decide hosts.
func (d *Definition) DestinationSettings() []string {
	var names []string
	for _, s := range d.urls() {
		if t, err := d.urlTemplate(s); err == nil && s != "" {
			names = append(names, t.hostSettings()...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
