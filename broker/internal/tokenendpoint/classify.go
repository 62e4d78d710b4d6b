package tokenendpoint

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/tokenbroker/caddy-token-broker/broker/guard"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/retryafter"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// classify returns the outcome of the token request that x carried. token and err are
// x/oauth2's reading of the response; err's text can contain secrets and is never used.
func classify(x *exchange, req *Request, token *oauth2.Token, err error) record.Answer {
	ans := record.Answer{Status: x.status}
	switch {
	case x.status == 0 && !x.sent() && errors.Is(err, guard.ErrAddressNotAllowed):
		ans.Class, ans.Code = record.ClassTransient, record.CodeAddressNotAllowed
	case x.status == 0 && !x.sent():
		ans.Class, ans.Code = record.ClassTransient, record.CodeNotSent
	case x.status == 0:
		ans.Class, ans.Code = record.ClassAmbiguous, record.CodeNoAnswer
	case x.status == http.StatusTooManyRequests, x.status == http.StatusServiceUnavailable:
		ans.Class, ans.Code = record.ClassTransient, record.CodeHTTPStatus+strconv.Itoa(x.status)
		ans.RetryAfter = min(retryafter.Parse(x.header, req.SentAt), maxRetryAfter)
	case x.status == http.StatusRequestTimeout, x.status >= 500, x.status < 200:
		ans.Class, ans.Code = record.ClassAmbiguous, record.CodeHTTPStatus+strconv.Itoa(x.status)
	case x.status >= 400 && x.cut:
		// The missing part could have refused this refresh token, or the client.
		ans.Class, ans.Code = record.ClassAmbiguous, record.CodeHTTPStatus+strconv.Itoa(x.status)
	case x.status >= 300:
		ans.Class, ans.Code = classifyRefusal(x, req)
	default:
		return classifySuccess(ans, x, req, token, err)
	}
	return ans
}

// classifyRefusal reads a 3xx or 4xx.
func classifyRefusal(x *exchange, req *Request) (record.Class, string) {
	if x.status < 400 {
		return record.ClassConfiguration, record.CodeHTTPStatus + strconv.Itoa(x.status)
	}
	fields := x.fields()
	if word := req.permanentWord(fields); word != "" {
		return record.ClassPermanent, req.showable(word)
	}
	if code := fields["error"]; code != "" {
		return record.ClassConfiguration, req.showable(code)
	}
	return record.ClassConfiguration, record.CodeHTTPStatus + strconv.Itoa(x.status)
}

// classifySuccess reads a 2xx, which some token endpoints send with errors too.
func classifySuccess(ans record.Answer, x *exchange, req *Request, token *oauth2.Token, err error) record.Answer {
	fields := x.fields()
	if word := req.permanentWord(fields); word != "" && fields["access_token"] == "" {
		ans.Class, ans.Code = record.ClassPermanent, req.showable(word)
		return ans
	}
	if code := fields["error"]; code != "" {
		ans.Code = req.showable(code)
		ans.Class = record.ClassAmbiguous
		if record.IsClientError(code) || slices.Contains(requestErrors, code) {
			ans.Class = record.ClassConfiguration
		}
		return ans
	}
	if err == nil && x.complete && len(token.AccessToken) <= record.MaxToken && len(token.RefreshToken) <= record.MaxToken {
		ans.AccessToken, ans.RefreshToken, ans.TokenType = secret.New(token.AccessToken), secret.New(token.RefreshToken), token.Type()
		ans.Lifetime = x.lifetime() // token.Expiry is based on the wall clock
		return ans
	}
	// What x/oauth2 could not read may hold the only copy of the next refresh token.
	if x.complete {
		ans.AccessToken, ans.RefreshToken = secret.New(fields["access_token"]), secret.New(fields["refresh_token"])
	}
	if len(ans.AccessToken.Reveal()) > record.MaxToken || len(ans.RefreshToken.Reveal()) > record.MaxToken {
		ans.AccessToken, ans.RefreshToken = secret.String{}, secret.String{}
	}
	switch {
	case !ans.AccessToken.IsZero():
		ans.TokenType = fields["token_type"]
	case !ans.RefreshToken.IsZero():
		ans.Class, ans.Code = record.ClassTransient, record.CodeNoAccessToken
	case x.timedOut:
		ans.Class, ans.Code = record.ClassAmbiguous, record.CodeNoAnswer
	default:
		ans.Class, ans.Code = record.ClassAmbiguous, record.CodeUnusableAnswer
	}
	return ans
}

// requestErrors are the codes of RFC 6749 section 5.2 that can concern this one request as
// well as the client. They say nothing about the refresh token.
var requestErrors = []string{"unauthorized_client", "invalid_scope", "invalid_request"}

// errorFields are the members of a response that can hold an error code. RFC 6749 section 5.2
// has only the first, HubSpot has "status", and others have an object in "error".
var errorFields = []string{"error", "error.code", "error.type", "error.status", "error_code", "errorCode", "code", "status", "type"}

// permanentWord returns the code in a response that means invalid_grant, empty if there is
// none.
func (r *Request) permanentWord(fields map[string]string) string {
	for _, name := range errorFields {
		if word := fields[name]; word == record.CodeInvalidGrant || word != "" && slices.Contains(r.PermanentErrors, word) {
			return word
		}
	}
	return ""
}

// showable returns code if it is safe to show, see the function.
func (r *Request) showable(code string) string { return showable(code, r.Secrets) }

// showable returns an error code that a token endpoint sent, or [record.CodeUnknownError] if
// it does not look like a code (RFC 6749 section 5.2) or contains a secret.
func showable(code string, secrets []string) string {
	const most, shortest = 64, 6 // a shorter string is not a secret
	if len(code) > most || strings.Trim(code, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") != "" {
		return record.CodeUnknownError
	}
	for _, s := range secrets {
		if len(s) >= shortest && (strings.Contains(code, s) || strings.Contains(s, code)) {
			return record.CodeUnknownError
		}
	}
	return code
}

// maxRetryAfter bounds the delay that a token endpoint can ask for.
const maxRetryAfter = time.Hour
