// Package connector says how third-party services are authenticated to and where
// their credentials may go: definitions, the rules that they obey, and a catalogue.
package connector

import "time"

// A Definition is what there is to know about a third-party service in order to
// refresh its tokens and to call it. It is data: the catalogue's entries and the
// configuration's connector blocks are both Definitions.
type Definition struct {
	ID      ID
	Name    string // for people, "HubSpot"
	Website string // https URL, for people
	// Source is where the facts of a catalogue entry come from: a URL.
	Source string
	// Checked is what was read there, and what was not found and is assumed.
	Checked string

	AuthType AuthType
	// GrantType is how OAuth tokens are had. Default: authorization_code.
	GrantType GrantType
	// TokenURL is the token endpoint (RFC 6749 section 3.2), a template over settings.
	TokenURL string
	// RefreshURL is where refresh tokens are redeemed if that is not TokenURL, a template.
	RefreshURL string
	// RevocationURL is where tokens are revoked (RFC 7009), a template. Empty: nowhere.
	RevocationURL string
	// AuthStyle is how the client authenticates there (RFC 6749 section 2.3.1). It has
	// no default that would be found out by trying: a try can spend a refresh token.
	AuthStyle AuthStyle
	// TokenBody is how token requests are encoded. Default: form.
	TokenBody TokenBody
	// TokenParams are further parameters of every token request, by name. The values
	// are text in which {setting} stands for a setting; secrets stand there only so.
	TokenParams map[string]string
	// Rotation says what happens to a refresh token that was spent. Default: always.
	Rotation Rotation
	// KeepAlive is how long a refresh token may go unused before the service lets it
	// lapse; it is redeemed before, though nobody needs a token. 0: it does not lapse.
	KeepAlive time.Duration
	// RefreshTokenOptional: the service hands out long-lived tokens without one.
	RefreshTokenOptional bool
	// PermanentErrors are the token endpoint's own words for invalid_grant.
	PermanentErrors []string

	// BaseURL is where the API is, a template over settings.
	BaseURL string
	// AllowHosts are the hosts that a credential may be sent to besides BaseURL's:
	// "api.acme.test", or with one wildcard label "*.acme.test", each with ":port"
	// where it is not 443.
	AllowHosts []string
	// AllowPrivate: hosts may be loopback or private, and speak plain HTTP.
	AllowPrivate bool

	Settings []Setting
	// Inject says where the credential goes. Default: see [Definition.Placements].
	Inject []Placement

	// parsed is what the texts above mean, so that requests need not parse them. It is
	// by text: a definition that was changed since is not misread, only read again.
	parsed *parsed
}

// An AuthType is the kind of credential that a service takes. The values are those
// of auth_type in the Vault API.
type AuthType string

// The auth types.
const (
	OAuth2 AuthType = "oauth2"
	APIKey AuthType = "apiKey"
	Basic  AuthType = "basic"
	Custom AuthType = "custom"
	None   AuthType = "none"
)

// A GrantType is how an OAuth token was had in the first place. The values are
// those of oauth_grant_type in the Vault API.
type GrantType string

// The grant types (RFC 6749 sections 4.1, 4.4 and 4.3).
const (
	AuthorizationCode GrantType = "authorization_code"
	ClientCredentials GrantType = "client_credentials"
	Password          GrantType = "password"
)

// An AuthStyle is how an OAuth client authenticates at the token endpoint.
type AuthStyle string

// The auth styles (RFC 6749 section 2.3.1).
const (
	AuthHeader AuthStyle = "header" // client_secret_basic
	AuthParams AuthStyle = "params" // client_secret_post
)

// A TokenBody is how a token request is encoded.
type TokenBody string

// The encodings of token requests.
const (
	BodyForm TokenBody = "form" // application/x-www-form-urlencoded (RFC 6749 appendix B)
	BodyJSON TokenBody = "json" // one JSON object; no standard, but services that take nothing else
)

// A RotationKind says what a token endpoint does with a refresh token that was spent.
type RotationKind string

// The kinds of rotation.
const (
	RotationAlways RotationKind = "always" // each refresh token works once (RFC 9700 section 4.14.2)
	RotationNever  RotationKind = "never"  // refresh tokens stay as they are
	RotationWindow RotationKind = "window" // a spent one works again for a while
)

// Rotation is a kind and, for [RotationWindow], for how long a spent refresh token
// still works.
type Rotation struct {
	Kind   RotationKind
	Window time.Duration
}

// A Setting is a value that each connection has of its own.
type Setting struct {
	Name      string
	Label     string // for people; default: made from the name
	Required  bool
	Sensitive bool // a secret: masked wherever it would be shown
	// Origin: an https URL with neither path nor userinfo, on an allowed host. It alone
	// can stand for a whole host in a template.
	Origin bool
}

// A PlacementKind is the part of a request that a credential is put in.
type PlacementKind string

// The kinds of placement.
const (
	InHeader PlacementKind = "header"
	InQuery  PlacementKind = "query"
	InBasic  PlacementKind = "basic" // the Authorization header (RFC 7617)
	InCookie PlacementKind = "cookie"
)

// A Placement puts one credential into a request.
type Placement struct {
	Kind PlacementKind
	// Name is the header's, query parameter's or cookie's. Unused for InBasic.
	Name string
	// Format has one %s for the value ("Bearer %s"). Only for InHeader; default "%s".
	Format string
	// Setting is the setting to take the value from; empty: the access token (of an
	// APIKey connector: the setting api_key). For InBasic it is the user name.
	Setting string
	// PasswordSetting is the setting that has the password. Only for InBasic.
	PasswordSetting string
	// Username stands in place of Setting, and Password in place of PasswordSetting: text
	// with settings in braces, "{email}/token". What is literal in it is no secret; many
	// services take an API key for the user name and any password, or none. Only for InBasic.
	Username, Password string
}
