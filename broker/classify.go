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
	"github.com/tokenbroker/caddy-token-broker/broker/guard"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/retryafter"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// classify says what became of the one token request that t has carried: token and
// err are x/oauth2's reading of it, whose text can hold secrets and is never used.
func classify(t *tokenTransport, token *oauth2.Token, err error, def *connector.Definition, secrets []string, now time.Time) record.Answer {
	ans := record.Answer{Status: t.status}
	switch {
	case t.status == 0 && !t.sent() && errors.Is(err, guard.ErrAddressNotAllowed):
		ans.Class, ans.Code = record.ClassTransient, record.CodeAddressNotAllowed
	case t.status == 0 && !t.sent():
		ans.Class, ans.Code = record.ClassTransient, record.CodeNotSent
	case t.status == 0:
		ans.Class, ans.Code = record.ClassAmbiguous, record.CodeNoAnswer
	case t.status == http.StatusTooManyRequests, t.status == http.StatusServiceUnavailable:
		ans.Class, ans.Code = record.ClassTransient, record.CodeHTTPStatus+strconv.Itoa(t.status)
		ans.RetryAfter = min(retryafter.Parse(t.header, now), maxRetryAfter)
	case t.status == http.StatusRequestTimeout, t.status >= 500, t.status < 200:
		ans.Class, ans.Code = record.ClassAmbiguous, record.CodeHTTPStatus+strconv.Itoa(t.status)
	case t.status >= 400 && t.cut:
		// It could have said anything, of this refresh token too.
		ans.Class, ans.Code = record.ClassAmbiguous, record.CodeHTTPStatus+strconv.Itoa(t.status)
	case t.status >= 300:
		ans.Class, ans.Code = classifyRefusal(t, def, secrets)
	default:
		return classifySuccess(ans, t, token, err, def, secrets)
	}
	return ans
}

// classifyRefusal reads a 3xx or 4xx.
func classifyRefusal(t *tokenTransport, def *connector.Definition, secrets []string) (record.Class, string) {
	if t.status < 400 {
		return record.ClassConfiguration, record.CodeHTTPStatus + strconv.Itoa(t.status)
	}
	fields := t.fields()
	if word := permanentWord(fields, def); word != "" {
		return record.ClassPermanent, showable(word, secrets)
	}
	if code := fields["error"]; code != "" {
		return record.ClassConfiguration, showable(code, secrets)
	}
	return record.ClassConfiguration, record.CodeHTTPStatus + strconv.Itoa(t.status)
}

// classifySuccess reads a 2xx, which some token endpoints send with errors too.
func classifySuccess(ans record.Answer, t *tokenTransport, token *oauth2.Token, err error, def *connector.Definition, secrets []string) record.Answer {
	fields := t.fields()
	if word := permanentWord(fields, def); word != "" && fields["access_token"] == "" {
		ans.Class, ans.Code = record.ClassPermanent, showable(word, secrets)
		return ans
	}
	if code := fields["error"]; code != "" {
		ans.Code = showable(code, secrets)
		switch {
		case slices.Contains(configurationErrors, code):
			ans.Class = record.ClassConfiguration
		default:
			ans.Class = record.ClassAmbiguous
		}
		return ans
	}
	if err == nil && t.complete && len(token.AccessToken) <= record.MaxToken && len(token.RefreshToken) <= record.MaxToken {
		ans.AccessToken, ans.RefreshToken, ans.TokenType = secret.New(token.AccessToken), secret.New(token.RefreshToken), token.Type()
		if !token.Expiry.IsZero() {
			// x/oauth2 has added the lifetime to the time of now; whole seconds undo that.
			ans.Lifetime = time.Until(token.Expiry).Round(time.Second)
		}
		return ans
	}
	// What x/oauth2 could not read may hold the only copy of the next refresh token.
	if t.complete {
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
	case t.late:
		ans.Class, ans.Code = record.ClassAmbiguous, record.CodeNoAnswer
	default:
		ans.Class, ans.Code = record.ClassAmbiguous, record.CodeUnusableAnswer
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
		if word := fields[name]; word == record.CodeInvalidGrant || word != "" && slices.Contains(def.PermanentErrors, word) {
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
		return record.CodeUnknownError
	}
	for _, s := range secrets {
		if len(s) >= shortest && (strings.Contains(code, s) || strings.Contains(s, code)) {
			return record.CodeUnknownError
		}
	}
	return code
}

// maxRetryAfter bounds what a token endpoint can ask for.
const maxRetryAfter = time.Hour
