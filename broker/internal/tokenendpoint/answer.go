package tokenendpoint

import (
	"cmp"
	"encoding/json"
	"regexp"
	"strings"

	"golang.org/x/oauth2"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// tokens reads the tokens of a 2xx member by member, so that a broken member does not spoil the
// others. The answer may hold the only copy of the next refresh token: if neither token is in its
// place, tokens searches the whole answer for that.
func (x *exchange) tokens(ans record.Answer, req *Request) record.Answer {
	answer := x.members()
	access := tokenText(req.member(answer, connector.AnswerAccessToken))
	if strings.ContainsFunc(access, isControl) {
		access = "" // no request could carry it
	}
	refresh := tokenText(req.member(answer, connector.AnswerRefreshToken))
	ans.RefreshLifetime = refreshLifetime(answer, req)
	if refresh == "" && access == "" {
		var beside any
		refresh, beside = x.anyRefreshToken(answer, req.Params.Get("refresh_token"))
		if ans.RefreshLifetime == 0 {
			ans.RefreshLifetime = firstTime(beside, refreshTimes, req.SentAt)
		}
	}
	ans.Captured = req.captured(answer)
	switch {
	case len(refresh) > record.MaxToken, len(access) > record.MaxToken && refresh == "":
		ans.Class, ans.Code = record.ClassAmbiguous, record.CodeUnusableAnswer
	case access != "" && len(access) <= record.MaxToken:
		kind, _ := req.member(answer, "token_type").(string)
		ans.AccessToken, ans.RefreshToken = secret.New(access), secret.New(refresh)
		ans.TokenType = (&oauth2.Token{TokenType: strings.TrimSpace(kind)}).Type()
		ans.Lifetime = lifetime(answer, req)
	case refresh != "":
		ans.Class, ans.Code, ans.RefreshToken = record.ClassTransient, record.CodeNoAccessToken, secret.New(refresh)
	case x.timedOut:
		ans.Class, ans.Code = record.ClassAmbiguous, record.CodeNoAnswer
	default:
		ans.Class, ans.Code = record.ClassAmbiguous, record.CodeUnusableAnswer
	}
	return ans
}

// member returns a member of the answer: from where the connector says it is, else from beside
// the access token, else from the top level.
func (r *Request) member(answer any, name string) any {
	if at, ok := r.Answer[name]; ok {
		if value := lookup(answer, at.Path); value != nil {
			return value
		}
	}
	if value := member(r.besideAccessToken(answer), name); value != nil {
		return value
	}
	return member(answer, name)
}

// besideAccessToken returns the object that holds the access token, if the connector says where
// that is and the answer has it there. Other members are likely to be in it too.
func (r *Request) besideAccessToken(answer any) any {
	at, ok := r.Answer[connector.AnswerAccessToken]
	if !ok || lookup(answer, at.Path) == nil {
		return nil
	}
	return lookup(answer, at.Path[:len(at.Path)-1])
}

// captured returns the values to capture that the answer has.
func (r *Request) captured(answer any) map[string]string {
	var found map[string]string
	for name, path := range r.Capture {
		value := strings.TrimSpace(scalarText(lookup(answer, path)))
		if value == "" {
			continue
		}
		if found == nil {
			found = make(map[string]string, len(r.Capture))
		}
		found[name] = value
	}
	return found
}

// tokenText returns a token without surrounding blanks, which no token has (RFC 6749 appendices
// A.12 and A.17). It returns "" for a value that is no token.
func tokenText(value any) string {
	s, _ := value.(string)
	if s = strings.TrimSpace(s); s == "null" || s == "undefined" {
		return ""
	}
	return s
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// refreshTokenPattern and formTokenPattern find a refresh token in a body that broke off, or that
// has a server's warning before it.
var (
	refreshTokenPattern = regexp.MustCompile(`"refresh_?[tT]oken"\s*:\s*("(?:[^"\\]|\\.)*")`)
	formTokenPattern    = regexp.MustCompile(`(?:^|&)refresh_token=([^&\s"<>]+)&`)
)

// anyRefreshToken returns the outermost refresh token in the answer, and the object that holds
// it. The token that was sent does not count: an endpoint that repeats the request has said
// nothing.
func (x *exchange) anyRefreshToken(answer any, sent string) (token string, beside any) {
	for level := []any{answer}; len(level) > 0; {
		var next []any
		for _, value := range level {
			switch v := value.(type) {
			case map[string]any:
				found := member(v, connector.AnswerRefreshToken)
				if inner, ok := found.(map[string]any); ok {
					found = cmp.Or(member(inner, "token"), member(inner, "value"))
				}
				if token := tokenText(found); token != "" && token != sent {
					return token, v
				}
				for _, name := range sortedNames(v) {
					next = append(next, v[name])
				}
			case []any:
				next = append(next, v...)
			case string: // a response that a gateway has wrapped
				if strings.HasPrefix(v, "{") {
					next = append(next, decodeJSON([]byte(v)))
				}
			}
		}
		level = next
	}
	if answer != nil {
		return "", nil
	}
	for _, match := range refreshTokenPattern.FindAllSubmatch(x.body, -1) {
		var s string
		if json.Unmarshal(match[1], &s) != nil {
			continue
		}
		if token := tokenText(s); token != "" && token != sent {
			return token, nil
		}
	}
	if match := formTokenPattern.FindSubmatch(x.body); match != nil {
		if token := tokenText(unescape(string(match[1]))); token != sent {
			return token, nil
		}
	}
	return "", nil
}
