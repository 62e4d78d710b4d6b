package broker

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/retryafter"
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
	codeInvalidGrant       = "invalid_grant"         // RFC 6749 section 5.2
	codeNotSent            = "not_sent"              // the request did not reach the token endpoint whole
	codeAddressNotAllowed  = "address_not_allowed"   // nor could it, see [GuardedDialer]
	codeNoAnswer           = "no_answer"             // it reached it, and no response came, or its body timed out
	codeHTTPStatus         = "http_"                 // and the status, where the response had no code
	codeUnusable           = "unusable_answer"       // a 2xx without a token in it
	codeNoAccessToken      = "no_access_token"       // a 2xx with only a refresh token
	codeUnknownError       = "unknown_error"         // a code that is not fit to be shown
	codeNoRefreshToken     = "no_refresh_token"      // the token has expired, there is no way to another
	codeAccessTokenRefused = "access_token_rejected" // downstream answered 401, there is no way to another
	codeNoCredentials      = "no_credentials"        // there are none, or none any more
	codeMissingSettings    = "missing_settings"      // a setting that a URL or a header needs is not there
	codeUnfitValue         = "invalid_credential"    // a token or a setting cannot stand where it is to be put
)

// err returns the answer as an error for a span, nil if it brought a token.
func (a answer) err() error {
	if a.class == "" {
		return nil
	}
	return &TokenError{Class: a.class, Code: a.code}
}

// classify says what became of the one token request that t has carried: token and
// err are x/oauth2's reading of it, whose text can hold secrets and is never used.
func classify(t *tokenTransport, token *oauth2.Token, err error, def *connector.Definition, secrets []string, now time.Time) answer {
	ans := answer{status: t.status}
	switch {
	case t.status == 0 && !t.sent() && errors.Is(err, ErrAddressNotAllowed):
		ans.class, ans.code = ClassTransient, codeAddressNotAllowed
	case t.status == 0 && !t.sent():
		ans.class, ans.code = ClassTransient, codeNotSent
	case t.status == 0:
		ans.class, ans.code = ClassAmbiguous, codeNoAnswer
	case t.status == http.StatusTooManyRequests, t.status == http.StatusServiceUnavailable:
		ans.class, ans.code = ClassTransient, codeHTTPStatus+strconv.Itoa(t.status)
		ans.retryAfter = min(retryafter.Parse(t.header, now), maxRetryAfter)
	case t.status == http.StatusRequestTimeout, t.status >= 500, t.status < 200:
		ans.class, ans.code = ClassAmbiguous, codeHTTPStatus+strconv.Itoa(t.status)
	case t.status >= 400 && t.cut:
		// It could have said anything, of this refresh token too.
		ans.class, ans.code = ClassAmbiguous, codeHTTPStatus+strconv.Itoa(t.status)
	case t.status >= 300:
		ans.class, ans.code = classifyRefusal(t, def, secrets)
	default:
		return classifySuccess(ans, t, token, err, def, secrets)
	}
	return ans
}

// classifyRefusal reads a 3xx or 4xx.
func classifyRefusal(t *tokenTransport, def *connector.Definition, secrets []string) (Class, string) {
	if t.status < 400 {
		return ClassConfiguration, codeHTTPStatus + strconv.Itoa(t.status)
	}
	fields := t.fields()
	if word := permanentWord(fields, def); word != "" {
		return ClassPermanent, showable(word, secrets)
	}
	if code := fields["error"]; code != "" {
		return ClassConfiguration, showable(code, secrets)
	}
	return ClassConfiguration, codeHTTPStatus + strconv.Itoa(t.status)
}

// classifySuccess reads a 2xx, which some token endpoints send with errors too.
func classifySuccess(ans answer, t *tokenTransport, token *oauth2.Token, err error, def *connector.Definition, secrets []string) answer {
	fields := t.fields()
	if word := permanentWord(fields, def); word != "" && fields["access_token"] == "" {
		ans.class, ans.code = ClassPermanent, showable(word, secrets)
		return ans
	}
	if code := fields["error"]; code != "" {
		ans.code = showable(code, secrets)
		switch {
		case slices.Contains(configurationErrors, code):
			ans.class = ClassConfiguration
		default:
			ans.class = ClassAmbiguous
		}
		return ans
	}
	if err == nil && t.complete && len(token.AccessToken) <= maxToken && len(token.RefreshToken) <= maxToken {
		ans.accessToken, ans.refreshToken, ans.tokenType = NewSecret(token.AccessToken), NewSecret(token.RefreshToken), token.Type()
		if !token.Expiry.IsZero() {
			// x/oauth2 has added the lifetime to the time of now; whole seconds undo that.
			ans.lifetime = time.Until(token.Expiry).Round(time.Second)
		}
		return ans
	}
	// What x/oauth2 could not read may hold the only copy of the next refresh token.
	if t.complete {
		ans.accessToken, ans.refreshToken = NewSecret(fields["access_token"]), NewSecret(fields["refresh_token"])
	}
	if len(ans.accessToken.Reveal()) > maxToken || len(ans.refreshToken.Reveal()) > maxToken {
		ans.accessToken, ans.refreshToken = Secret{}, Secret{}
	}
	switch {
	case !ans.accessToken.IsZero():
		ans.tokenType = fields["token_type"]
	case !ans.refreshToken.IsZero():
		ans.class, ans.code = ClassTransient, codeNoAccessToken
	case t.late:
		ans.class, ans.code = ClassAmbiguous, codeNoAnswer
	default:
		ans.class, ans.code = ClassAmbiguous, codeUnusable
	}
	return ans
}

// configurationErrors are the codes of RFC 6749 section 5.2 that are no verdict on the
// refresh token: clientErrors, and those that can be about this one request too.
var configurationErrors = append([]string{"unauthorized_client", "invalid_scope", "invalid_request"}, clientErrors...)

// errorFields are where token endpoints say what is wrong: RFC 6749 section 5.2 has
// only the first, HubSpot has "status", others have an object in "error".
var errorFields = []string{"error", "error.code", "error.type", "error.status", "error_code", "errorCode", "code", "status", "type"}

// permanentWord returns the word of an answer that means invalid_grant, if there is one.
func permanentWord(fields map[string]string, def *connector.Definition) string {
	for _, name := range errorFields {
		if word := fields[name]; word == codeInvalidGrant || word != "" && slices.Contains(def.PermanentErrors, word) {
			return word
		}
	}
	return ""
}

// showable returns an error code that a token endpoint sent if it looks like one
// (RFC 6749 section 5.2) and has no secret in it.
func showable(code string, secrets []string) string {
	const most, shortest = 64, 6 // what is shorter is no secret
	if len(code) > most || strings.Trim(code, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") != "" {
		return codeUnknownError
	}
	for _, s := range secrets {
		if len(s) >= shortest && (strings.Contains(code, s) || strings.Contains(s, code)) {
			return codeUnknownError
		}
	}
	return code
}

// maxRetryAfter bounds what a token endpoint can ask for.
const maxRetryAfter = time.Hour
