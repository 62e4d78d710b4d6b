package tokenendpoint

import (
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/internal/retryafter"
)

// A rule says what a response without a token means. It applies if all its conditions are met.
// The first rule that applies decides.
type rule struct {
	statuses   [2]int   // first and last HTTP status; zero: 200 to 499
	words      []string // one of the error's values is one of these, without regard to case and separators
	texts      []string // one of the error's values contains one of these, in lower case
	retryAfter bool     // the response has a Retry-After
	foreign    bool     // the body is not from an OAuth server: HTML, a challenge page

	class record.Class
	early bool          // the refresh was premature
	wait  time.Duration // minimum delay before the next attempt
}

// rules decides what a refusal means. The connector's own words take precedence.
var rules = []rule{
	{texts: []string{"token not expired", "token is not expired", "not yet expired"}, class: record.ClassTransient, early: true},
	{statuses: [2]int{429, 429}, class: record.ClassTransient},
	{statuses: [2]int{425, 425}, class: record.ClassTransient}, // Too Early, RFC 8470 section 5.2
	{statuses: [2]int{400, 499}, retryAfter: true, class: record.ClassTransient},
	// Salesforce, for concurrent requests with one refresh token, and for too many requests.
	{words: []string{record.CodeInvalidGrant}, texts: []string{"already being processed"}, class: record.ClassTransient},
	{words: []string{record.CodeInvalidGrant}, texts: rateTexts, class: record.ClassTransient, wait: time.Minute},
	{words: []string{record.CodeInvalidGrant}, class: record.ClassPermanent},
	{words: []string{"invalid_client", "unsupported_grant_type"}, class: record.ClassConfiguration},
	// RFC 6749 section 4.1.2.1, RFC 8628 section 3.5, and other words for the same.
	{words: []string{"temporarily_unavailable", "server_error", "slow_down"}, class: record.ClassTransient},
	{words: faultWords, class: record.ClassTransient},
	{words: rateWords, class: record.ClassTransient, wait: time.Minute},
	{texts: rateTexts, class: record.ClassTransient, wait: time.Minute},
	{texts: []string{"retry your request", "try again later", "temporarily unavailable", "please retry", "maintenance"}, class: record.ClassTransient},
	// A redirect leads to a login or maintenance page: it says nothing about the refresh token.
	{statuses: [2]int{300, 399}, class: record.ClassTransient},
	{statuses: [2]int{400, 499}, foreign: true, class: record.ClassTransient},
	{class: record.ClassRefused},
}

// faultWords name a fault of the server.
var faultWords = []string{"internal_error", "internal_server_error", "backend_error", "service_unavailable", "unavailable", "request_timeout", "timeout"}

// Words for too many requests, without the status 429.
var (
	rateWords = []string{
		"rate_limit_exceeded", "rate_limited", "ratelimited", "too_many_requests", "throttled", "request_limit_exceeded", "quota_exceeded", "resource_exhausted",
	}
	rateTexts = []string{"too many requests", "too many attempts", "rate limit", "rate_limit", "ratelimit", "rate exceeded", "rate_exceeded", "throttl"}
)

func (r *rule) applies(x *exchange, f *refusal) bool {
	first, last := r.statuses[0], r.statuses[1]
	if first == 0 {
		first, last = 200, 499
	}
	return x.status >= first && x.status <= last &&
		(r.words == nil || f.plainWord(r.words) != "") &&
		(r.texts == nil || f.hasText(r.texts)) &&
		(!r.retryAfter || f.retryAfter > 0) &&
		(!r.foreign || f.foreign)
}

// judge classifies a complete response without a token.
func (r *Request) judge(x *exchange, f *refusal) record.Answer {
	ans := record.Answer{
		Status: x.status, RetryAfter: f.retryAfter, Code: record.CodeHTTPStatus + strconv.Itoa(x.status), Detail: r.detail(x, f),
	}
	if f.code != "" {
		ans.Code = r.showable(f.code)
	}
	if own, word, ok := r.ownWord(f); ok {
		ans.Class, ans.Early = own.class, own.early
		if word != "" {
			ans.Code = r.showable(word)
		}
		return ans
	}
	for i := range rules {
		if rule := &rules[i]; rule.applies(x, f) {
			ans.Class, ans.Early = rule.class, rule.early
			ans.RetryAfter = max(ans.RetryAfter, rule.wait)
			if word := f.word(rule.words); word != "" {
				ans.Code = r.showable(word)
			} else if word := f.plainWord(rule.words); word != "" && ans.Code == record.CodeUnknownError {
				ans.Code = word
			}
			break
		}
	}
	if x.status == http.StatusTooManyRequests {
		ans.Code = record.CodeHTTPStatus + strconv.Itoa(x.status)
	}
	return ans
}

// ownWord returns what a refusal means by the connector's own words, and the value that is such a
// word, empty if only a part of a value matched.
func (r *Request) ownWord(f *refusal) (meaning rule, word string, ok bool) {
	for _, own := range []struct {
		words   []string
		meaning rule
	}{
		{r.PermanentErrors, rule{class: record.ClassPermanent}},
		{r.ConfigurationErrors, rule{class: record.ClassConfiguration}},
		{r.TransientErrors, rule{class: record.ClassTransient}},
		{r.EarlyErrors, rule{class: record.ClassTransient, early: true}},
	} {
		for _, w := range own.words {
			if text, part := strings.CutPrefix(w, "~"); part {
				if f.hasText([]string{strings.ToLower(text)}) {
					return own.meaning, "", true
				}
			} else if word := f.word([]string{w}); word != "" {
				return own.meaning, word, true
			}
		}
	}
	return rule{}, "", false
}

// A refusal is the error in a response without a token.
type refusal struct {
	values     []string // of the members that describe the error
	code       string   // of RFC 6749 section 5.2, or its substitute; may be empty
	named      bool     // the response names an error, even if it is a 2xx
	foreign    bool
	retryAfter time.Duration
	details    map[string][]string // values of detailMembers and bodyIDs, by name
}

// word returns the first of the values that is one of the words, empty if none is.
func (f *refusal) word(words []string) string {
	for _, value := range f.values {
		if slices.ContainsFunc(words, func(w string) bool { return strings.EqualFold(w, value) }) {
			return value
		}
	}
	return ""
}

// plainWord is word for names of RFC 6749, which some services write as InvalidGrant or
// "invalid grant". It returns the name.
func (f *refusal) plainWord(words []string) string {
	for _, value := range f.values {
		if i := slices.IndexFunc(words, func(w string) bool { return isSameName(w, value) }); i >= 0 {
			return words[i]
		}
	}
	return ""
}

// hasText reports whether a value contains one of the texts, which are in lower case.
func (f *refusal) hasText(texts []string) bool {
	return slices.ContainsFunc(f.values, func(value string) bool {
		value = strings.ToLower(value)
		return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(value, text) })
	})
}

// challengeError is the error in a challenge (RFC 6750 section 3).
var challengeError = regexp.MustCompile(`\berror="([^"]+)"`)

// refusal reads a response as a refusal.
func (x *exchange) refusal(req *Request) *refusal {
	f := x.readRefusal()
	f.foreign = f.foreign || x.header.Get("Cf-Mitigated") != ""
	f.retryAfter = min(retryafter.Parse(x.header, req.SentAt), maxRetryAfter)
	if match := challengeError.FindStringSubmatch(strings.Join(x.header.Values("Www-Authenticate"), ",")); match != nil && !f.named {
		f.code, f.named, f.foreign = match[1], true, false
		f.values = append(f.values, match[1])
	}
	return f
}

// maxRetryAfter bounds the wait that a token endpoint can ask for.
const maxRetryAfter = time.Hour
