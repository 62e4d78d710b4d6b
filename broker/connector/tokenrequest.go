package connector

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// OwnClient returns the OAuth client of a connection with these settings, if it has its own:
// the connector has to declare the setting client_id, and the connection has to have it.
// Without a client secret it is a public client (RFC 6749 section 2.1).
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

// TakesClient reports whether connections can have their own OAuth client.
func (d *Definition) TakesClient() bool {
	return d.AuthType == OAuth2 && d.setting(settingClientID) != nil
}

// RenderTokenParams returns token_params for a connection with these settings. A
// setting that is missing or not valid there is a [*SettingError].
func (d *Definition) RenderTokenParams(settings map[string]any) (map[string]string, error) {
	return d.renderTexts(d.TokenParams, settings)
}

// RenderTokenHeaders returns token_headers for a connection with these settings. A setting
// that is missing or not valid there is a [*SettingError].
func (d *Definition) RenderTokenHeaders(settings map[string]any) (map[string]string, error) {
	return d.renderTexts(d.TokenHeaders, settings)
}

// renderTexts renders templates by name. No value has control characters.
func (d *Definition) renderTexts(templates map[string]string, settings map[string]any) (map[string]string, error) {
	rendered := make(map[string]string, len(templates))
	for name, s := range templates {
		t, err := d.text(s)
		if err != nil {
			return nil, err
		}
		if rendered[name], err = t.render(func(setting string) (string, error) {
			value, err := d.credentialText(setting, settings)
			if err == nil && hasControl(value) {
				err = d.settingError(setting, faultControl)
			}
			return value, err
		}); err != nil {
			return nil, err
		}
	}
	return rendered, nil
}

// IdentitySettings returns the settings that say for whom tokens are fetched, see
// [Definition.TokenSettings]; nil unless [Definition.FetchesTokens]. Tokens that were fetched
// with other values of these belong to someone else.
func (d *Definition) IdentitySettings() []string {
	if !d.FetchesTokens() {
		return nil
	}
	return d.TokenSettings()
}

// TokenSettings returns the settings that token requests depend on: where they go, with
// which client, for which user, with which parameters.
func (d *Definition) TokenSettings() []string {
	names := d.tokenTemplateSettings()
	if d.AuthType == OAuth2 {
		own := []string{settingClientID, settingClientSecret}
		for _, s := range d.Grant().settings {
			own = append(own, s.Name)
		}
		for _, name := range own {
			if d.setting(name) != nil {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// tokenTemplateSettings returns the settings in the URLs, the parameters and the headers of
// token requests.
func (d *Definition) tokenTemplateSettings() []string {
	var names []string
	for _, s := range []string{d.TokenURL, d.RefreshURL} {
		if t, err := d.urlTemplate(s); err == nil {
			names = append(names, t.settings()...)
		}
	}
	for _, templates := range []map[string]string{d.TokenParams, d.TokenHeaders} {
		for _, s := range templates {
			if t, err := d.text(s); err == nil {
				names = append(names, t.settings()...)
			}
		}
	}
	return names
}

// secretParams are substrings of the names of parameters whose values are secrets.
var secretParams = []string{"secret", "password", "passwd", "passphrase", "apikey", "privatekey"}

// tokenRequest checks the members that token requests are made of.
func (v *validation) tokenRequest() {
	switch v.d.TokenBody {
	case BodyForm, BodyJSON:
	default:
		v.fail("token_body", "%q is not form or json", v.d.TokenBody)
	}
	switch v.d.TokenMethod {
	case "", MethodPost:
	case MethodGet:
		if v.d.TokenBody == BodyJSON {
			v.fail("token_method", "GET has no body: remove token_body json")
		}
	default:
		v.fail("token_method", "%q is not POST or GET", v.d.TokenMethod)
	}
	for _, name := range slices.Sorted(maps.Keys(v.d.TokenParams)) {
		value := v.d.TokenParams[name]
		if name == "" || hasControl(name) || hasControl(value) {
			v.fail("token_params", "%q needs a name, and neither name nor value may have control characters", name)
			continue
		}
		if slices.Contains(reservedParams(), name) && (name != "grant_type" || !v.d.Grant().renamable) {
			v.fail("token_params", "%s is set by the grant: remove it", name)
			continue
		}
		v.requestText("token_params", name, value)
	}
	if secret := v.d.setting(settingClientSecret); secret != nil {
		if !secret.Sensitive {
			v.fail("setting", "%s must be sensitive: add the word", settingClientSecret)
		}
		if v.d.setting(settingClientID) == nil {
			v.fail("setting", "%s needs the setting %s beside it: a connection has both or neither", settingClientSecret, settingClientID)
		}
	}
}

// requestText checks a named template of token requests.
func (v *validation) requestText(field, name, value string) {
	t, err := parseText(value)
	if err != nil {
		v.fail(field, "%s %w", name, err)
		return
	}
	if len(t.settings()) == 0 && isSecretName(name) {
		v.fail(field, "%s is a secret by its name, and must not stand here: use a {setting} that is sensitive", name)
	}
	for _, s := range t.settings() {
		if v.d.setting(s) == nil {
			v.fail(field, "%s uses {%s}, which is not declared: add setting %s required", name, s, s)
		}
	}
}

var paramSeparators = strings.NewReplacer("_", "", "-", "")

// isSecretName reports whether a parameter or header of that name has a secret as its value.
func isSecretName(name string) bool {
	plain := paramSeparators.Replace(strings.ToLower(name))
	return slices.ContainsFunc(secretParams, func(w string) bool { return strings.Contains(plain, w) })
}

// Destinations are the origins that settings decide, see [Definition.Destinations].
type Destinations [4]string

// Destinations returns where settings send the secrets of a connection: the origins of
// base_url, token_url, refresh_url and revocation_url as far as settings decide their hosts.
// An origin is empty if no setting decides it, or if a setting for it is missing.
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

// DestinationSettings returns the settings that decide hosts.
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
