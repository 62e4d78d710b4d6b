package tokenendpoint

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/guard"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// classify returns the outcome of the token request that x carried. err says why there is no
// response; its text can contain secrets and is never used.
func classify(x *exchange, req *Request, err error) record.Answer {
	ans := record.Answer{Status: x.status}
	switch {
	case x.status == 0 && !x.sent() && errors.Is(err, guard.ErrAddressNotAllowed):
		ans.Class, ans.Code = record.ClassTransient, record.CodeAddressNotAllowed
	case x.status == 0 && !x.sent():
		ans.Class, ans.Code = record.ClassTransient, record.CodeNotSent
	case x.status == 0:
		ans.Class, ans.Code = record.ClassAmbiguous, record.CodeNoAnswer
	case x.status >= 500 || x.status == http.StatusRequestTimeout:
		return classifyFault(x, req)
	case x.status < 200:
		ans.Class, ans.Code = record.ClassAmbiguous, record.CodeHTTPStatus+strconv.Itoa(x.status)
	case x.status >= 400 && x.cut:
		// The missing part could have refused this refresh token, or the client.
		ans.Class, ans.Code = record.ClassAmbiguous, record.CodeHTTPStatus+strconv.Itoa(x.status)
		ans.Detail = req.detail(x, &refusal{})
	case x.status >= 300:
		return req.judge(x, x.refusal(req))
	default:
		return classifySuccess(ans, x, req)
	}
	return ans
}

// classifyFault reads a 5xx or a 408. The refresh token may be spent, unless the connector's own
// words or a status of 503 say that it is not.
func classifyFault(x *exchange, req *Request) record.Answer {
	f := x.refusal(req)
	if _, _, ok := req.ownWord(f); ok && x.complete {
		return req.judge(x, f)
	}
	ans := record.Answer{
		Status: x.status, Class: record.ClassAmbiguous, Code: record.CodeHTTPStatus + strconv.Itoa(x.status), Detail: req.detail(x, f),
	}
	if x.status == http.StatusServiceUnavailable {
		ans.Class, ans.RetryAfter = record.ClassTransient, f.retryAfter
	}
	return ans
}

// classifySuccess reads a 2xx, which some token endpoints send with errors too. A new refresh
// token in it is kept in any case: the one that was sent may be spent.
func classifySuccess(ans record.Answer, x *exchange, req *Request) record.Answer {
	got := x.tokens(ans, req)
	if got.Class == "" {
		return got
	}
	f := x.refusal(req)
	_, _, known := req.ownWord(f)
	refused := x.complete && (known || f.named)
	rotated := !got.RefreshToken.IsZero() && got.RefreshToken.Reveal() != req.Params.Get("refresh_token")
	switch {
	case refused && !rotated:
		return req.judge(x, f)
	case refused:
		got.RetryAfter = f.retryAfter
		got.Detail = req.withSecret(got.RefreshToken.Reveal()).detail(x, f)
	default:
		got.Detail = req.detail(x, &refusal{}) // the members could be anything
	}
	return got
}

// withSecret returns the request with another value that must not be shown.
func (r *Request) withSecret(value string) *Request {
	more := *r
	more.Secrets = append(slices.Clone(r.Secrets), value)
	return &more
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
