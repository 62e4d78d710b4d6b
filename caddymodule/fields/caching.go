package fields

import (
	"net/http"
	"slices"
	"strings"
)

// Cache tells caches what decides the final response, whose header was cleaned. A response is
// the answer to one connection, which a URL does not name.
func (r *Response) Cache(header http.Header, method string) {
	p := r.Policy
	if p == nil {
		return
	}
	vary := p.Vary
	if p.DependsOnMore {
		vary = "*"
	}
	if vary != "" {
		r.addVary(header, vary)
	}
	asked := r.Caller.Method
	switch {
	case (asked == http.MethodGet || asked == http.MethodHead) && method != http.MethodGet && method != http.MethodHead:
		// A cache would answer the next GET by itself, and the POST that it stands for is lost.
		header["Cache-Control"] = []string{"no-store"}
	case p.DependsOnMore:
		restrict(header)
	case !p.IsProxy && (vary == "" || invitesCaches(header)) && !isShared(header["Cache-Control"]):
		// Downstream got a credential, so that shared caches may not store its answer (RFC 9111
		// section 3.5). They cannot know that: callers may not send one.
		addDirective(header, "private")
	}
}

// invitesCaches reports whether the response has what caches go by, even if only to guess
// (RFC 9111 section 4.2.2). Otherwise Vary has to do: another field in each response costs more
// than the whole decision.
func invitesCaches(header http.Header) bool {
	return header["Cache-Control"] != nil || header["Expires"] != nil || header["Last-Modified"] != nil || header["Etag"] != nil
}

// addVary adds a value, which is not empty, to Vary.
func (r *Response) addVary(header http.Header, vary string) {
	switch values := header["Vary"]; {
	case len(values) == 0:
		r.vary[0] = vary
		header["Vary"] = r.vary[:]
	case vary == "*" || slices.ContainsFunc(values, variesOnAll):
		header["Vary"] = []string{"*"} // alone, as some caches do not find it in a list
	default:
		header["Vary"] = append(slices.Clip(values), vary)
	}
}

// variesOnAll reports whether a member of the list is an asterisk, which may also be a part of
// a field name.
func variesOnAll(value string) bool {
	return strings.Contains(value, "*") && slices.Contains(splitList(value), "*")
}

// isShared reports whether Cache-Control already decides about shared caches: it lets them
// store answers to requests with a credential (RFC 9111 section 3.5), or forbids it.
func isShared(values []string) bool {
	for _, value := range values {
		for _, directive := range splitList(value) {
			name, argument, _ := strings.Cut(directive, "=")
			switch strings.ToLower(name) {
			case "public", "s-maxage", "must-revalidate", "no-store":
				return true
			case "private":
				if argument == "" { // otherwise it is about single fields
					return true
				}
			}
		}
	}
	return false
}

// restrict removes all permissions for shared caches.
func restrict(header http.Header) {
	left := []string{"private"}
	for _, value := range header["Cache-Control"] {
		for _, directive := range splitList(value) {
			name, _, _ := strings.Cut(directive, "=")
			switch strings.ToLower(name) {
			case "", "public", "private", "s-maxage", "proxy-revalidate":
			default:
				left = append(left, directive)
			}
		}
	}
	header["Cache-Control"] = []string{strings.Join(left, ", ")}
}

// addDirective adds a directive in front: downstream may have left a quote open.
func addDirective(header http.Header, directive string) {
	if values := header["Cache-Control"]; len(values) > 0 {
		directive += ", " + strings.Join(values, ", ")
	}
	header["Cache-Control"] = []string{directive}
}
