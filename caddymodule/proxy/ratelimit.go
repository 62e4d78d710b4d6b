package proxy

import (
	"cmp"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// rateLimitPrefix is the prefix of the headers that report downstream's rate limit in a
// uniform way, regardless of the names of downstream's own headers:
//
//	x-downstream-ratelimit-limit      requests allowed in the current window
//	x-downstream-ratelimit-remaining  requests left in the window
//	x-downstream-ratelimit-reset      end of the window, in Unix seconds
//
// Each is taken from the first of its sources below that contains a number; in a list the
// first member counts. A reset may be Unix time in seconds or milliseconds, seconds from
// now, or a date; the magnitude of a number tells which.
const rateLimitPrefix = "X-Downstream-Ratelimit-"

// The sources: the three headers of early versions of draft-ietf-httpapi-ratelimit-headers,
// their common predecessors, and the names that some services use.
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
	// usedSources end in used/limit: "32/40", "api-usage=18/5000".
	usedSources = []string{"X-Shopify-Shop-Api-Call-Limit", "Sforce-Limit-Info"}
)

// isRateLimit reports whether a header may be one of the sources. The name is not empty.
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

// setRateLimit sets the headers for which from has a source.
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

// structuredRateLimit parses the RateLimit header, in the draft's current form
// (`"default";r=50;t=30`, with the quota q in RateLimit-Policy) and in that of versions 4 to
// 7 (`limit=100, remaining=50, reset=5`).
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

// number returns the digits at the beginning of s, empty if there are none, or too many for an int64.
func number(s string) string {
	s = strings.TrimSpace(s)
	end := 0
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	const longest = 18 // digits that fit an int64
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

// unixSeconds parses a reset time and returns it in Unix seconds.
func unixSeconds(s string, now time.Time) (int64, bool) {
	const (
		firstTime   = 1_000_000_000     // in 2001; smaller numbers are seconds from now
		firstMillis = 1_000_000_000_000 // in 2001; smaller numbers are Unix seconds
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

// dateSeconds parses a date, or a duration with a unit ("6m0s").
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
