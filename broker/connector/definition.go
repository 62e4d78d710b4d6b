// Package connector describes third-party services: how to authenticate to them and where
// their credentials may go. It has the definitions, the rules that they obey, and a catalogue.
package connector

import "time"

// A Definition is what the broker has to know about a third-party service in order to
// refresh its tokens and to call it. It is data, and the one schema of a connector: the
// catalogue's entries, connector files, Caddy's JSON and Caddyfile blocks all fill it. The
// JSON form has the members that the tags name; [Definition.UnmarshalJSON] reads further
// spellings of some.
type Definition struct {
	// The connector's id, `crm/hubspot`. In the configuration the block's name says it.
	ID ID `json:"id,omitzero"`

	// The service's name for people, `HubSpot`.
	Name string `json:"name,omitempty"`

	// The service's website, an https URL.
	Website string `json:"website,omitempty"`

	// Where the facts of a catalogue entry come from: a URL.
	Source string `json:"source,omitempty"`

	// What was read there, and what was not found and is assumed.
	Checked string `json:"checked,omitempty"`

	// The kind of credential: `oauth2`, `apiKey`, `basic`, `custom` or `none`.
	AuthType AuthType `json:"auth_type,omitempty"`

	// The OAuth grant that tokens come from, such as `client_credentials`. Default:
	// `authorization_code`.
	GrantType GrantType `json:"grant_type,omitempty"`

	// The token endpoint (RFC 6749 section 3.2), an https URL. Settings can stand in it:
	// `https://{subdomain}.example.com/token`.
	TokenURL string `json:"token_url,omitempty"`

	// Where refresh tokens are redeemed, if not at the token endpoint. A template, too.
	RefreshURL string `json:"refresh_url,omitempty"`

	// Where tokens are revoked (RFC 7009), a template. Default: tokens are not revoked.
	RevocationURL string `json:"revocation_url,omitempty"`

	// How the client authenticates at the token endpoint (RFC 6749 section 2.3.1): `header`
	// (client_secret_basic), `header_raw` (the same, without form-encoding id and secret),
	// `params` (client_secret_post) or `both` (`header_raw` and `params`). It has no default,
	// and is never found out by trying: a try can spend a refresh token.
	AuthStyle AuthStyle `json:"auth_style,omitempty"`

	// The method of token requests: `POST` (the default), or `GET` with all parameters in the
	// query.
	TokenMethod TokenMethod `json:"token_method,omitempty"`

	// How token requests are encoded: `form` (the default) or `json`.
	TokenBody TokenBody `json:"token_body,omitempty"`

	// Further headers of every token request, by name. Settings can stand in the values:
	// `{tenant}`. Secrets may stand there only as settings.
	TokenHeaders map[string]string `json:"token_headers,omitempty"`

	// Further parameters of every token request, by name. Settings can stand in the values:
	// `{tenant}`. Secrets may stand there only as settings.
	TokenParams map[string]string `json:"token_params,omitempty"`

	// Where the token endpoint's answers have `access_token`, `refresh_token`, `expires_in`,
	// `expires_at` or `refresh_expires_in`, by that name, if not at the top level: a dotted path,
	// `data.token`. A lifetime or time can have a unit: `data.ttl ms`.
	Answer map[string]string `json:"answer,omitempty"`

	// The settings that follow the token endpoint's answers: by setting, the dotted path of its
	// value. A value that the setting must not have is ignored.
	Capture map[string]string `json:"capture,omitempty"`

	// The token endpoint's own words for invalid_grant. A word that begins with `~` matches a
	// part of a text.
	PermanentErrors []string `json:"permanent_errors,omitempty"`

	// The token endpoint's own words for invalid_client: the OAuth client is wrong.
	ConfigurationErrors []string `json:"configuration_errors,omitempty"`

	// The token endpoint's own words for temporarily_unavailable: a later request may succeed.
	TransientErrors []string `json:"transient_errors,omitempty"`

	// The token endpoint's own words for a refresh that comes too long before the token expires.
	EarlyErrors []string `json:"early_errors,omitempty"`

	// What the token endpoint does with a refresh token that was spent. Default: `always`.
	Rotation Rotation `json:"rotation,omitzero"`

	// How long a refresh token may go unused before the service lets it lapse. The broker
	// redeems it before that, even if no caller needs a token. Default: it does not lapse.
	KeepAlive time.Duration `json:"keep_alive,omitempty"`

	// How long before its expiry a token is refreshed at the earliest. Default: a fifth of the
	// lifetime, between one and five minutes.
	RefreshMargin time.Duration `json:"refresh_margin,omitempty"`

	// How many refreshes that no caller waits for begin in a second at the token endpoint:
	// `50/s`. Those that callers wait for go first. Default: 20.
	RefreshRate Rate `json:"refresh_rate,omitempty"`

	// How many of them are in progress at a time. Default: 8.
	RefreshConcurrency int `json:"refresh_concurrency,omitempty"`

	// The service issues long-lived access tokens without a refresh token.
	RefreshTokenOptional bool `json:"refresh_token_optional,omitempty"`

	// Where the API is, an https URL. Settings can stand in it.
	BaseURL string `json:"base_url,omitempty"`

	// The path, below base_url, of a GET request without side effects that any valid credential
	// may make, such as `/me`. Settings can stand in it, and it can have a query.
	// `token-broker verify --probe` sends it. Default: none is known.
	ProbePath string `json:"probe_path,omitempty"`

	// The hosts that a credential may be sent to besides that of base_url: `api.acme.test`,
	// or with one wildcard label `*.acme.test`, each with `:port` where it is not 443.
	AllowHosts []string `json:"allow_hosts,omitempty"`

	// The statuses of downstream, besides 401, that mean that the access token has expired.
	ExpiredStatuses []int `json:"expired_statuses,omitempty"`

	// The bodies of downstream that mean that the access token has expired.
	ExpiredBodies []ExpiredBody `json:"expired_bodies,omitempty"`

	// Headers of every call, by name, such as the version of the API. A header that the caller
	// sends takes precedence.
	Headers map[string]string `json:"headers,omitempty"`

	// The values that each connection has of its own.
	Settings []Setting `json:"settings,omitempty"`

	// Where the credential goes in a request. Default: as usual for the auth type, such as
	// `Authorization: Bearer` for oauth2.
	Inject []Placement `json:"inject,omitempty"`

	// The hosts may be loopback or private addresses, and speak plain HTTP.
	AllowPrivate bool `json:"allow_private,omitempty"`

	templates *templates // nil until [Definition.WithDefaults]
}

// An AuthType is the kind of credential that a service takes. The values are those of
// auth_type in the Apideck API.
type AuthType string

// The auth types.
const (
	OAuth2 AuthType = "oauth2"
	APIKey AuthType = "apiKey"
	Basic  AuthType = "basic"
	Custom AuthType = "custom"
	None   AuthType = "none"
)

// An AuthStyle is how an OAuth client authenticates at the token endpoint.
type AuthStyle string

// The auth styles (RFC 6749 section 2.3.1).
const (
	AuthHeader    AuthStyle = "header"     // client_secret_basic
	AuthHeaderRaw AuthStyle = "header_raw" // client_secret_basic without form-encoding, as many services expect it
	AuthParams    AuthStyle = "params"     // client_secret_post
	AuthBoth      AuthStyle = "both"       // AuthHeaderRaw and AuthParams, for services that read only one of them
)

// A TokenMethod is the method of token requests.
type TokenMethod string

// The methods of token requests. RFC 6749 section 3.2 has only POST.
const (
	MethodPost TokenMethod = "POST"
	MethodGet  TokenMethod = "GET"
)

// A TokenBody is how a token request is encoded.
type TokenBody string

// The encodings of token requests.
const (
	BodyForm TokenBody = "form" // application/x-www-form-urlencoded (RFC 6749 appendix B)
	BodyJSON TokenBody = "json" // one JSON object; not standard, but the only form that some services take
)

// A Setting is a value that each connection has of its own.
type Setting struct {
	// Lower-case letters, digits and underscores.
	Name string `json:"name"`

	// The setting's name for people. Default: made from the name.
	Label string `json:"label,omitempty"`

	// A connection cannot be used without it.
	Required bool `json:"required,omitempty"`

	// It is a secret: it is masked wherever it would be shown.
	Sensitive bool `json:"sensitive,omitempty"`

	// It is an https URL with neither path nor userinfo, on a host of allow_hosts. Only such
	// a setting can stand for a whole host in a template.
	Origin bool `json:"origin,omitempty"`

	// The value for connections that have none. Not for secrets.
	Default string `json:"default,omitempty"`
}
