package proxy

import (
	"cmp"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// rateLimitPrefix is what the headers begin with that say in one form how much downstream
// still takes, whatever its own are called:
//
//	x-downstream-ratelimit-limit      how many requests it takes in the current window
//	x-downstream-ratelimit-remaining  how many of them are left
//	x-downstream-ratelimit-reset      when the window ends, in Unix seconds
//
// Each is taken from the first of its sources below that has a number. A list stands for
// its first member. A source of the reset can be Unix time in seconds or milliseconds,
// seconds from now, or a date; sources are told apart by how large they are.
const rateLimitPrefix = "X-Downstream-Ratelimit-"

// The sources: draft-ietf-httpapi-ratelimit-headers, in its older form of three headers,
// what was common before it, and what some services call it.
var (
	limitSources = []string{
		"Ratelimit-Limit", "X-Ratelimit-Limit", "X-Rate-Limit-Limit", "X-Rate-Limit",
		"X-Hubspot-Ratelimit-Max", "X-Ratelimit-Limit-Requests",
	}
	remainingSources = []string{
		"Ratelimit-Remaining", "X-Ratelimit-Remaining", "X-Rate-Limit-Remaining",
		"X-Hubspot-Ratelimit-Remaining", "X-Minlimit-Remaining", "X-Ratelimit-Remaining-Requests",
	}
	resetSources = []string{
		"Ratelimit-Reset", "X-Ratelimit-Reset", "X-Rate-Limit-Reset", "X-Ratelimit-Reset-Requests", "Retry-After",
	}
	// usedSources have used/limit at their end: "32/40", "api-usage=18/5000".
	usedSources = []string{"X-Shopify-Shop-Api-Call-Limit", "Sforce-Limit-Info"}
)

// isRateLimit reports whether a header, whose name is not empty, can be one of the sources.
func isRateLimit(name string) bool {
	switch name[0] {
	case 'R':
		return strings.HasPrefix(name, "Ratelimit") || name == "Retry-After"
	case 'X':
		return strings.HasPrefix(name, "X-Rate") || strings.HasPrefix(name, "X-Hubspot-Rate") ||
			strings.HasPrefix(name, "X-Shopify-Shop") || name == "X-Minlimit-Remaining"
	case 'S':
		return name == "Sforce-Limit-Info"
	default:
		return false
	}
}

// setRateLimit sets the headers from those of downstream, as far as it says.
func setRateLimit(to, from http.Header, now time.Time) {
	limit, remaining, reset := structuredRateLimit(from)
	limit = firstNumber(limit, from, limitSources)
	remaining = firstNumber(remaining, from, remainingSources)
	for _, name := range usedSources {
		if used, most, ok := usedOf(from.Get(name)); ok && limit == "" && remaining == "" {
			limit, remaining = strconv.FormatInt(most, 10), strconv.FormatInt(max(0, most-used), 10)
		}
	}
	setIfAny(to, "Limit", limit)
	setIfAny(to, "Remaining", remaining)
	if at, ok := unixSeconds(reset, now); ok {
		setIfAny(to, "Reset", strconv.FormatInt(at, 10))
		return
	}
	for _, name := range resetSources {
		if at, ok := unixSeconds(from.Get(name), now); ok {
			setIfAny(to, "Reset", strconv.FormatInt(at, 10))
			return
		}
	}
}

func setIfAny(to http.Header, name, value string) {
	if value != "" {
		to[rateLimitPrefix+name] = []string{value}
	}
}

// structuredRateLimit reads the header RateLimit of the draft, in its present form
// (`"default";r=50;t=30`, with the quota q in RateLimit-Policy) and in that of its
// drafts 4 to 7 (`limit=100, remaining=50, reset=5`).
func structuredRateLimit(header http.Header) (limit, remaining, reset string) {
	member := header.Get("Ratelimit")
	if member == "" {
		return "", "", ""
	}
	fields := parameters(member)
	policy := parameters(header.Get("Ratelimit-Policy"))
	return number(cmp.Or(fields["limit"], policy["q"])), number(cmp.Or(fields["remaining"], fields["r"])), cmp.Or(fields["reset"], fields["t"])
}

// parameters returns the first value of each parameter.
func parameters(s string) map[string]string {
	found := make(map[string]string)
	for part := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ',' || r == ';' }) {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		name = strings.ToLower(name)
		if _, twice := found[name]; ok && !twice {
			found[name] = strings.Trim(value, `" `)
		}
	}
	return found
}

func firstNumber(found string, from http.Header, names []string) string {
	for _, name := range names {
		if found != "" {
			break
		}
		found = number(from.Get(name))
	}
	return found
}

// number returns the whole number that s begins with, empty if there is none.
func number(s string) string {
	s = strings.TrimSpace(s)
	end := 0
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	const longest = 18 // digits that always fit an int64
	if end == 0 || end > longest {
		return ""
	}
	return s[:end]
}

func usedOf(s string) (used, most int64, ok bool) {
	if i := strings.LastIndexByte(s, '='); i >= 0 {
		s = s[i+1:]
	}
	before, after, ok := strings.Cut(s, "/")
	if !ok || number(before) == "" || number(after) == "" {
		return 0, 0, false
	}
	used, _ = strconv.ParseInt(number(before), 10, 64)
	most, _ = strconv.ParseInt(number(after), 10, 64)
	return used, most, true
}

// unixSeconds reads a time in one of its usual forms.
func unixSeconds(s string, now time.Time) (int64, bool) {
	const (
		firstTime   = 1_000_000_000     // 2001 in seconds; less is a duration
		firstMillis = 1_000_000_000_000 // 2001 in milliseconds; less is in seconds
	)
	s = strings.TrimSpace(s)
	if s == "" {
		return 0, false
	}
	digits := number(s)
	if rest := s[len(digits):]; digits == "" || rest != "" && strings.IndexByte(".,; ", rest[0]) < 0 {
		return dateSeconds(s, now)
	}
	v, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case err != nil:
		return 0, false
	case v >= firstMillis:
		return v / 1000, true
	case v >= firstTime:
		return v, true
	default:
		return now.Unix() + v, true
	}
}

// dateSeconds reads a date, or a duration with its unit ("6m0s").
func dateSeconds(s string, now time.Time) (int64, bool) {
	if at, err := http.ParseTime(s); err == nil {
		return at.Unix(), true
	}
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return at.Unix(), true
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(d).Unix(), true
	}
	return 0, false
}
