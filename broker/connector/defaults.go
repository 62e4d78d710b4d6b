package connector

import "slices"

// The settings with a meaning of their own: the credentials of auth types and grants, and
// the OAuth client of a connection.
const (
	settingAPIKey       = "api_key"
	settingUsername     = "username"
	settingPassword     = "password"
	settingClientID     = "client_id"
	settingClientSecret = "client_secret"
)

// Settings that auth types and grants take credentials from, as they are declared by default.
var (
	apiKeyAlone         = []Setting{{Name: settingAPIKey, Required: true, Sensitive: true}}
	usernameAndPassword = []Setting{{Name: settingUsername, Required: true}, {Name: settingPassword, Required: true, Sensitive: true}}
)

// WithDefaults returns a copy of d in which what d leaves open has its default: the name,
// labels, the grant type, rotation and token body of oauth2, where the credential goes
// ([Definition.Placements]), and the settings that the auth type or the grant takes
// credentials from. The copy has its templates parsed.
func (d *Definition) WithDefaults() Definition {
	c := d.Clone()
	if c.Name == "" {
		c.Name = labelFor(c.ID.ServiceID)
	}
	if c.AuthType == OAuth2 {
		c.setOAuthDefaults()
	}
	c.Inject = d.Placements()
	c.addDefaultSettings()
	for i := range c.Settings {
		if c.Settings[i].Label == "" {
			c.Settings[i].Label = labelFor(c.Settings[i].Name)
		}
	}
	c.templates = c.parseTemplates()
	return c
}

func (d *Definition) setOAuthDefaults() {
	if d.GrantType == "" {
		d.GrantType = d.Grant().Type
	}
	if d.Rotation.Kind == "" {
		d.Rotation.Kind = RotationAlways
		if d.Grant().IgnoresRefreshTokens {
			d.Rotation.Kind = RotationNever
		}
	}
	if d.TokenBody == "" {
		d.TokenBody = BodyForm
	}
}

// addDefaultSettings declares the credential settings that are used, unless the definition
// declares them itself. A grant uses all of its settings; with the other auth types it
// depends on the placements.
func (d *Definition) addDefaultSettings() {
	for _, s := range d.credentialSettings() {
		used := d.AuthType == OAuth2 || slices.ContainsFunc(d.Inject, func(p Placement) bool {
			return slices.Contains(p.settings(), s.Name)
		})
		if used && d.setting(s.Name) == nil {
			d.Settings = append(d.Settings, s)
		}
	}
}

// credentialSettings returns the settings that the auth type or the grant takes its
// credentials from, as they are declared by default.
func (d *Definition) credentialSettings() []Setting {
	switch d.AuthType {
	case APIKey:
		return apiKeyAlone
	case Basic:
		return usernameAndPassword
	default:
		return d.Grant().settings
	}
}

// Placements returns where the credential goes: Inject, or by default the access token
// (oauth2) or the setting api_key (apiKey) in "Authorization: Bearer", or the settings
// username and password as basic authentication (basic). With apiKey, a placement without a
// setting is one for api_key. The auth types custom and none have no default. Callers must
// not change the list.
func (d *Definition) Placements() []Placement {
	if d.templates != nil && isSameList(d.templates.placements, d.Inject) {
		return d.Inject
	}
	placements := slices.Clone(d.Inject)
	if len(placements) == 0 {
		switch d.AuthType {
		case OAuth2, APIKey:
			placements = []Placement{{Kind: InHeader, Name: "Authorization", Format: "Bearer %s"}}
		case Basic:
			placements = []Placement{{Kind: InBasic, Setting: settingUsername, PasswordSetting: settingPassword}}
		}
	}
	for i := range placements {
		if p := &placements[i]; d.AuthType == APIKey && p.Setting == "" && p.Kind != InBasic {
			p.Setting = settingAPIKey
		}
	}
	return placements
}

// isSameList reports whether a and b are the same memory.
func isSameList(a, b []Placement) bool {
	return len(a) == len(b) && len(a) > 0 && &a[0] == &b[0]
}
