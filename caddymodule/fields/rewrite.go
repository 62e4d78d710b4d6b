package fields

import (
	"strings"
)

// links rewrites the references of a Link field (RFC 8288 section 3), and drops links that
// must not get to the caller.
func (v *resolver) links(value string) (string, bool) {
	var left []string
	for _, link := range splitList(value) {
		before, rest, ok := strings.Cut(link, "<")
		if !ok || strings.TrimSpace(before) != "" {
			continue // not a link
		}
		target, parameters, ok := strings.Cut(rest, ">")
		if !ok {
			continue
		}
		if target, ok = v.resolve(target); !ok {
			continue
		}
		if parameters, ok = v.anchor(parameters); !ok || indexFold(parameters, "imagesrcset") >= 0 { // has URLs, too
			continue
		}
		left = append(left, "<"+target+">"+parameters)
	}
	return strings.Join(left, ", "), len(left) > 0
}

// anchor rewrites the parameter that says what a link is about, a reference too.
func (v *resolver) anchor(parameters string) (string, bool) {
	const name = "anchor="
	i := indexFold(parameters, name)
	if i < 0 {
		return parameters, true
	}
	before, rest := parameters[:i+len(name)], parameters[i+len(name):]
	quote, end := "", strings.IndexAny(rest, "; ")
	if unquoted, ok := strings.CutPrefix(rest, `"`); ok {
		quote, rest = `"`, unquoted
		end = strings.IndexByte(rest, '"')
	}
	if end < 0 {
		end = len(rest)
	}
	target, ok := v.resolve(rest[:end])
	return before + quote + target + rest[end:], ok
}

// indexFold is like strings.Index for an ASCII text in any case. An index into
// strings.ToLower(s) would not be one into s: bytes that are no UTF-8, for one, become longer.
func indexFold(s, text string) int {
	for i := range len(s) - len(text) + 1 {
		if strings.EqualFold(s[i:i+len(text)], text) {
			return i
		}
	}
	return -1
}

// splitList splits a list at its commas (RFC 9110 section 5.6.1), except those inside quotes
// and angle brackets.
func splitList(s string) []string {
	var parts []string
	from, quoted, bracketed := 0, false, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"' && !bracketed:
			quoted = !quoted
		case quoted:
		case c == '<':
			bracketed = true
		case c == '>':
			bracketed = false
		case c == ',' && !bracketed:
			parts = append(parts, strings.TrimSpace(s[from:i]))
			from = i + 1
		}
	}
	return append(parts, strings.TrimSpace(s[from:]))
}

// refresh rewrites the reference of a Refresh field, which is read as in the HTML standard.
func (v *resolver) refresh(value string) (string, bool) {
	seconds := strings.TrimLeft(value, " \t")
	rest := strings.TrimLeft(seconds, "0123456789.")
	seconds = seconds[:len(seconds)-len(rest)]
	target := strings.TrimLeft(rest, ";, \t")
	if target == "" {
		return value, true // the same URL again
	}
	if len(target) >= 3 && strings.EqualFold(target[:3], "url") {
		if after, ok := strings.CutPrefix(strings.TrimLeft(target[3:], " \t"), "="); ok {
			target = strings.TrimLeft(after, " \t")
		}
	}
	if target != "" && (target[0] == '"' || target[0] == '\'') {
		target, _, _ = strings.Cut(target[1:], target[:1])
	}
	target, ok := v.resolve(target)
	// In the result a quote would be the value's, and what is inside it another reference.
	return seconds + "; url=" + target, ok && !strings.HasPrefix(target, `"`) && !strings.HasPrefix(target, "'")
}

// reports rewrites the references of the directive report-uri, and drops those that must not
// get to the caller.
func (v *resolver) reports(value string) string {
	const name = "report-uri"
	if !strings.Contains(strings.ToLower(value), name) {
		return value
	}
	policies := strings.Split(value, ",")
	for i, policy := range policies {
		directives := strings.Split(policy, ";")
		for j, directive := range directives {
			words := strings.Fields(directive)
			if len(words) == 0 || !strings.EqualFold(words[0], name) {
				continue
			}
			left := words[:1]
			for _, word := range words[1:] {
				if target, ok := v.resolve(word); ok {
					left = append(left, target)
				}
			}
			directives[j] = " " + strings.Join(left, " ")
			if len(left) == 1 {
				directives[j] = ""
			}
		}
		policies[i] = strings.TrimSpace(strings.Join(directives, ";"))
	}
	return strings.Join(policies, ", ")
}

// namesOwn reports whether an absolute URL in the text has an authority of the broker.
func (v *resolver) namesOwn(text string) bool {
	for {
		before, after, ok := strings.Cut(text, "//")
		if !ok {
			return false
		}
		scheme := ""
		if rest, ok := strings.CutSuffix(before, ":"); ok {
			scheme = strings.ToLower(rest[strings.LastIndexAny(rest, " \"'=,;(<")+1:])
		}
		authority := after
		if i := strings.IndexAny(after, "/?#\" ',;)>\\"); i >= 0 {
			authority = after[:i]
		}
		if v.own.check(scheme, authority) != foreign {
			return true
		}
		text = after
	}
}
