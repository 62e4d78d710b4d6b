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
	// ClassConfiguration: the client is wrong, not the connection; nothing is lost.
	ClassConfiguration Class = "configuration"
	// ClassRefused: the token endpoint refused with an error that could be about the connection
	// or about the client. Nothing is lost; only the connection backs off.
	ClassRefused Class = "refused"
	// ClassTransient: the refresh token was certainly not spent; try again later.
	ClassTransient Class = "transient"
	// ClassAmbiguous: the refresh token may have been spent.
	ClassAmbiguous Class = "ambiguous"
)

// Codes of failures. If the token endpoint gave a code of RFC 6749 section 5.2, that is used;
// otherwise one of these.
const (
	CodeInvalidGrant        = "invalid_grant"           // RFC 6749 section 5.2
	CodeNotSent             = "not_sent"                // the token endpoint did not get the whole request
	CodeAddressNotAllowed   = "address_not_allowed"     // the dialer refused the address, see [guard.NewDialer]
	CodeNoAnswer            = "no_answer"               // the request was sent, and no response came or its body timed out
	CodeHTTPStatus          = "http_"                   // prefix; the status follows. For a response without a code
	CodeUnusableAnswer      = "unusable_answer"         // a 2xx without a token
	CodeNoAccessToken       = "no_access_token"         // a 2xx with only a refresh token
	CodeUnknownError        = "unknown_error"           // the endpoint's code is not safe to show
	CodeNoRefreshToken      = "no_refresh_token"        // the token has expired and cannot be refreshed
	CodeAccessTokenRejected = "access_token_rejected"   // downstream answered 401, and the token cannot be refreshed
	CodeNoCredentials       = "no_credentials"          // there are none, or they were removed
	CodeMissingSettings     = "missing_settings"        // a setting that a URL or a header needs is missing
	CodeInvalidCredential   = "invalid_credential"      //nolint:gosec // a code, not a credential; a token or setting is not valid where it has to go
	CodeStaleStore          = "stale_store"             // the store has older credentials than this process has seen
	CodeConnectorPaused     = "connector_paused"        // the token endpoint refuses the client; a breaker is open
	CodeEndpointInDoubt     = "token_endpoint_in_doubt" // the token endpoint has refused several connections in a row; a breaker is open
	CodeJournalUnavailable  = "journal_unavailable"     // an answer could not be kept, so no request is sent
)

// An Answer is the outcome of a token request. The class is empty if the response has an
// access token.
type Answer struct {
	Class      Class
	Code       string
	Status     int           // HTTP status, 0 without a response
	RetryAfter time.Duration // as the response asked for; 0: not given
	Detail     string        // of a refusal: what the endpoint said beyond the code, safe to show
	Early      bool          // refused because the token is not due for a refresh yet

	AccessToken     secret.String
	RefreshToken    secret.String // empty if it brought none, or the one that was sent
	TokenType       string
	Lifetime        time.Duration     // 0: not given
	RefreshLifetime time.Duration     // of the refresh token; 0: not given
	Captured        map[string]string // settings in the answer, by name
	SentAt          time.Time         // before the request, so that a lifetime counted from it is on the safe side
}

// Err returns the answer as an error for a span, nil if it has an access token.
func (a Answer) Err() error {
	if a.Class == "" {
		return nil
	}
	return &TokenError{Class: a.Class, Code: a.Code}
}
