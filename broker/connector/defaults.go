package connector

import (
	"maps"
	"slices"
)

// The settings that have a meaning of their own: the credentials of auth types and
// grants that have them in settings, and the OAuth client of a connection.
const (
	settingAPIKey       = "api_key"
	settingUsername     = "username"
	settingPassword     = "password"
	settingClientID     = "client_id"
	settingClientSecret = "client_secret"
)

var (
	defaultAPIKey   = []Setting{{Name: settingAPIKey, Required: true, Sensitive: true}}
	defaultUserPass = []Setting{{Name: settingUsername, Required: true}, {Name: settingPassword, Required: true, Sensitive: true}}
)

// WithDefaults returns a copy of d with the defaults of what it leaves open: the
// grant type, the rotation and the token requests' encoding of oauth2, labels, where
// the credential goes ([Definition.Placements]), and the settings that this needs:
// api_key for apiKey, username and password for basic and for the password grant. What
// can be parsed of it beforehand, is.
func (d *Definition) WithDefaults() Definition {
	c := d.Clone()
	if c.Name == "" {
		c.Name = labelFor(c.ID.ServiceID)
	}
	if c.AuthType == OAuth2 {
		if c.GrantType == "" {
			c.GrantType = AuthorizationCode
		}
		if c.Rotation.Kind == "" {
			c.Rotation.Kind = RotationAlways
			if c.GrantType == ClientCredentials {
				c.Rotation.Kind = RotationNever // there is no refresh token to spend
			}
		}
		if c.TokenBody == "" {
			c.TokenBody = BodyForm
		}
	}
	c.Inject = d.Placements()
	c.addDefaultSettings()
	for i := range c.Settings {
		if c.Settings[i].Label == "" {
			c.Settings[i].Label = labelFor(c.Settings[i].Name)
		}
	}
	c.parsed = c.parse()
	return c
}

// addDefaultSettings declares those of the auth type's own settings that a placement
// uses and nobody declared, and those that the password grant needs.
func (d *Definition) addDefaultSettings() {
	for _, s := range d.ownSettings() {
		used := d.AuthType == OAuth2 || slices.ContainsFunc(d.Inject, func(p Placement) bool {
			return slices.Contains(p.settings(), s.Name)
		})
		if used && d.setting(s.Name) == nil {
			d.Settings = append(d.Settings, s)
		}
	}
}

// ownSettings are the settings that the auth type or the grant has its credentials in,
// as they are declared if nobody else does.
func (d *Definition) ownSettings() []Setting {
	switch {
	case d.AuthType == APIKey:
		return defaultAPIKey
	case d.AuthType == Basic, d.AuthType == OAuth2 && d.GrantType == Password:
		return defaultUserPass
	default:
		return nil
	}
}

// Placements returns where the credential goes: Inject, or by default the access
// token (oauth2) or the setting api_key (apiKey) in "Authorization: Bearer", or the
// settings username and password as basic authentication (basic). In an apiKey
// connector a placement that names no setting is one for api_key. The auth types
// custom and none have no default. The list is not to be changed.
func (d *Definition) Placements() []Placement {
	if d.parsed != nil && sameList(d.parsed.placements, d.Inject) {
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

// sameList reports whether two lists are one and the same.
func sameList(a, b []Placement) bool {
	return len(a) == len(b) && len(a) > 0 && &a[0] == &b[0]
}

// Clone returns a deep copy.
func (d *Definition) Clone() Definition {
	c := *d
	c.TokenParams = maps.Clone(d.TokenParams)
	c.PermanentErrors = slices.Clone(d.PermanentErrors)
	c.AllowHosts = slices.Clone(d.AllowHosts)
	c.Settings = slices.Clone(d.Settings)
	c.Inject = slices.Clone(d.Inject)
	return c
}

// Override returns base, a catalogue entry for one, with what over says in place of
// what base says. A field with its zero value says nothing; so a switch that base
// sets stays set. Lists, and token_params, are replaced as a whole.
//
// A token_url or base_url of another host is not bound to base's hosts: allow_host
// must be given with it where the default is too narrow.
func Override(base, over Definition) Definition {
	c := base.Clone()
	o := over.Clone()
	set(&c.ID, o.ID)
	set(&c.Name, o.Name)
	set(&c.Website, o.Website)
	set(&c.Source, o.Source)
	set(&c.Checked, o.Checked)
	set(&c.AuthType, o.AuthType)
	set(&c.GrantType, o.GrantType)
	set(&c.TokenURL, o.TokenURL)
	set(&c.RefreshURL, o.RefreshURL)
	set(&c.RevocationURL, o.RevocationURL)
	set(&c.AuthStyle, o.AuthStyle)
	set(&c.TokenBody, o.TokenBody)
	set(&c.Rotation, o.Rotation)
	set(&c.KeepAlive, o.KeepAlive)
	set(&c.RefreshTokenOptional, o.RefreshTokenOptional)
	set(&c.BaseURL, o.BaseURL)
	set(&c.AllowPrivate, o.AllowPrivate)
	setList(&c.PermanentErrors, o.PermanentErrors)
	setList(&c.AllowHosts, o.AllowHosts)
	setList(&c.Settings, o.Settings)
	setList(&c.Inject, o.Inject)
	if o.TokenParams != nil {
		c.TokenParams = o.TokenParams
	}
	return c
}

func set[T comparable](field *T, value T) {
	var zero T
	if value != zero {
		*field = value
	}
}

func setList[T any](field *[]T, value []T) {
	if value != nil {
		*field = value
	}
}
