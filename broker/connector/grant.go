package connector

import "slices"

// A GrantType is the OAuth grant that tokens come from. The values are those of
// oauth_grant_type in the Apideck API.
type GrantType string

// A Grant is what a grant type means for token requests. Code asks it, and compares no
// grant types.
type Grant struct {
	Type GrantType

	// Fetches: the broker obtains tokens with what the configuration and the settings say,
	// whenever one is needed. An import need not bring any.
	Fetches bool

	// IgnoresRefreshTokens: a refresh token that comes with an answer is dropped.
	IgnoresRefreshTokens bool

	// FallsBack: a new token can be fetched when the refresh token has been refused.
	FallsBack bool

	// NeedsClientSecret: the grant is for clients that have a secret.
	NeedsClientSecret bool

	// settings are the settings with the grant's credentials, as they are declared by default.
	settings []Setting

	// reserved are the token request parameters that the grant sets by itself, besides
	// those of every grant. token_params may not have them.
	reserved []string

	// params returns the parameters of a token request that fetches a token, besides
	// grant_type. nil: there are none.
	params func(d *Definition, settings map[string]any) (map[string]string, error)

	// renamable: token_params may have a grant_type, since some services have a name of
	// their own for the grant.
	renamable bool
}

// grants are all grants. The first one is the default.
var grants = []Grant{grantAuthorizationCode, grantClientCredentials, grantPassword}

// Grant returns the definition's grant: the default if grant_type is not set, and the zero
// Grant if the auth type is not oauth2 or the grant type is not known.
func (d *Definition) Grant() Grant {
	if d.AuthType != OAuth2 {
		return Grant{}
	}
	if d.GrantType == "" {
		return grants[0]
	}
	i := slices.IndexFunc(grants, func(g Grant) bool { return g.Type == d.GrantType })
	if i < 0 {
		return Grant{}
	}
	return grants[i]
}

// FetchesTokens reports whether the broker obtains tokens with what the configuration and
// the settings say, so that an import need not bring any.
func (d *Definition) FetchesTokens() bool { return d.Grant().Fetches }

// GrantParams returns the parameters, besides grant_type, that the grant adds to the
// request that fetches a token. A missing setting is a [*SettingError].
func (d *Definition) GrantParams(settings map[string]any) (map[string]string, error) {
	if params := d.Grant().params; params != nil {
		return params(d, settings)
	}
	return nil, nil
}

// grantTypes returns the names of all grants.
func grantTypes() []string {
	var names []string
	for _, g := range grants {
		names = append(names, string(g.Type))
	}
	return names
}

// reservedParams returns the token request parameters that the grants and the client's
// authentication set by themselves (RFC 6749 sections 2.3.1, 4 and 6).
func reservedParams() []string {
	names := []string{"grant_type", "client_id", "client_secret", "client_assertion", "refresh_token"}
	for _, g := range grants {
		names = append(names, g.reserved...)
	}
	return names
}
