package connector

// AuthorizationCode is the authorization code grant (RFC 6749 section 4.1). An import
// brings its tokens.
const AuthorizationCode GrantType = "authorization_code"

var grantAuthorizationCode = Grant{
	Type:     AuthorizationCode,
	reserved: []string{"code"},
}
