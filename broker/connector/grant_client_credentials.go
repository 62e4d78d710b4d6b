package connector

// ClientCredentials is the client credentials grant (RFC 6749 section 4.4).
const ClientCredentials GrantType = "client_credentials"

var grantClientCredentials = Grant{
	Type:                 ClientCredentials,
	Fetches:              true,
	IgnoresRefreshTokens: true, // RFC 6749 section 4.4.3: there should be none
	NeedsClientSecret:    true, // RFC 6749 section 4.4: only for confidential clients
	renamable:            true,
}
