package record

import (
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// A Class says what a failed refresh means for the connection.
type Class string

// The classes of failure.
const (
	// ClassPermanent: the token endpoint refused this refresh token for good.
	ClassPermanent Class = "permanent"
	// ClassConfiguration: the client, not the connection, is wrong; nothing is lost.
	ClassConfiguration Class = "configuration"
	// ClassTransient: the refresh token was surely not spent; try again later.
	ClassTransient Class = "transient"
	// ClassAmbiguous: nobody knows whether the refresh token was spent.
	ClassAmbiguous Class = "ambiguous"
)

// Codes of failures: RFC 6749 section 5.2's where the token endpoint gave one, and
// these words of the broker's own where it did not.
const (
	CodeInvalidGrant        = "invalid_grant"         // RFC 6749 section 5.2
	CodeNotSent             = "not_sent"              // the request did not reach the token endpoint whole
	CodeAddressNotAllowed   = "address_not_allowed"   // nor could it, see [guard.NewDialer]
	CodeNoAnswer            = "no_answer"             // it reached it, and no response came, or its body timed out
	CodeHTTPStatus          = "http_"                 // and the status, where the response had no code
	CodeUnusableAnswer      = "unusable_answer"       // a 2xx without a token in it
	CodeNoAccessToken       = "no_access_token"       // a 2xx with only a refresh token
	CodeUnknownError        = "unknown_error"         // a code that is not fit to be shown
	CodeNoRefreshToken      = "no_refresh_token"      // the token has expired, there is no way to another
	CodeAccessTokenRejected = "access_token_rejected" // downstream answered 401, there is no way to another
	CodeNoCredentials       = "no_credentials"        // there are none, or none any more
	CodeMissingSettings     = "missing_settings"      // a setting that a URL or a header needs is not there
	CodeInvalidCredential   = "invalid_credential"    // a token or a setting cannot stand where it is to be put
)

// Err returns the answer as an error for a span, nil if it brought a token.
func (a Answer) Err() error {
	if a.Class == "" {
		return nil
	}
	return &TokenError{Class: a.Class, Code: a.Code}
}

// An Answer is what a token endpoint's response means. The class is empty if it
// brought an access token.
type Answer struct {
	Class      Class
	Code       string
	Status     int           // HTTP status, 0 without a response
	RetryAfter time.Duration // as the response asked for, 0 if it did not

	AccessToken  secret.String
	RefreshToken secret.String // empty if it brought none, or the one that was sent
	TokenType    string
	Lifetime     time.Duration // 0: not said
	SentAt       time.Time     // before the request, so that a lifetime from then on is safe
}

// IsClientError reports whether a code of RFC 6749 section 5.2 concerns the client
// alone. unauthorized_client, which concerns a client and a grant type, does not count:
// some token endpoints say it of a refresh token that was issued to another client,
// where RFC 6749 has invalid_grant, and anybody who may import can bring one of those.
func IsClientError(code string) bool {
	return code == "invalid_client" || code == "unsupported_grant_type"
}

// CodeStaleStore is the code of the error for a store that was rolled back.
const CodeStaleStore = "stale_store"
