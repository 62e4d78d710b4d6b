package fields

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A reference is a URI reference, taken apart as in RFC 3986 appendix B. Its parts are not
// decoded, so that it is passed on byte for byte.
type reference struct {
	scheme, authority, path, query, fragment string

	hasAuthority, hasQuery, hasFragment bool
}

func parseReference(s string) (r reference) {
	s, r.fragment, r.hasFragment = strings.Cut(s, "#")
	s, r.query, r.hasQuery = strings.Cut(s, "?")
	if i := strings.IndexByte(s, ':'); i > 0 && isScheme(s[:i]) {
		r.scheme, s = strings.ToLower(s[:i]), s[i+1:]
	}
	if rest, ok := strings.CutPrefix(s, "//"); ok {
		r.hasAuthority = true
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			r.authority, s = rest[:i], rest[i:]
		} else {
			r.authority, s = rest, ""
		}
	}
	r.path = s
	return r
}

func isScheme(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if (c < 'a' || c > 'z') && (i == 0 || (s[i] < '0' || s[i] > '9') && s[i] != '+' && s[i] != '-' && s[i] != '.') {
			return false
		}
	}
	return true
}

func (r *reference) String() string {
	var b strings.Builder
	if r.scheme != "" {
		b.WriteString(r.scheme + ":")
	}
	if r.hasAuthority {
		b.WriteString("//" + r.authority)
	}
	b.WriteString(r.path)
	if r.hasQuery {
		b.WriteString("?" + r.query)
	}
	if r.hasFragment {
		b.WriteString("#" + r.fragment)
	}
	return b.String()
}

// isHTTP reports whether clients would follow the reference with HTTP.
func (r *reference) isHTTP() bool {
	switch r.scheme {
	case "", "http", "https", "ws", "wss":
		return true
	default:
		return false
	}
}

// isAmbiguous reports whether clients read the reference differently: those that follow the
// URL standard (url.spec.whatwg.org) take a backslash for a slash, leave out control
// characters, and read http:path and ///path in ways of their own.
func (r *reference) isAmbiguous(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] == 0x7f {
			return true
		}
	}
	if strings.Contains(r.authority, `\`) || strings.Contains(r.path, `\`) {
		return true
	}
	return r.scheme != "" && !r.hasAuthority || r.hasAuthority && r.authority == ""
}

// resolveAgainst returns the path of a reference without authority, resolved as in RFC 3986
// section 5.2.
func (r *reference) resolveAgainst(basePath string) string {
	switch {
	case strings.HasPrefix(r.path, "/"):
		return removeDots(r.path)
	case r.path == "":
		return basePath
	default:
		return removeDots(basePath[:strings.LastIndexByte(basePath, '/')+1] + r.path)
	}
}

// removeDots removes dot segments (RFC 3986 section 5.2.4), also percent-encoded ones, as the
// URL standard does. path begins with a slash, or is relative to one.
func removeDots(path string) string {
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	kept := make([]string, 0, len(segments))
	for i, segment := range segments {
		last := i == len(segments)-1
		switch strings.ReplaceAll(strings.ToLower(segment), "%2e", ".") {
		case ".":
		case "..":
			kept = kept[:max(len(kept)-1, 0)]
		default:
			kept = append(kept, segment)
			continue
		}
		if last {
			kept = append(kept, "") // the path ends with a slash
		}
	}
	return "/" + strings.Join(kept, "/")
}

// A resolver turns the references of one response into what the caller must see.
type resolver struct {
	response   *Response
	credential Stripper
	own        ownAuthorities
	path       string // of the caller's request
	scheme     string // that a reference without one gets
}

func newResolver(r *Response, credential Stripper) *resolver {
	v := &resolver{response: r, credential: credential, own: newOwnAuthorities(r), path: askedPath(r.Caller), scheme: r.Scheme}
	if !r.Policy.IsProxy {
		v.scheme = schemeOf(r.Caller)
	}
	return v
}

// askedPath returns the path of the request as it was received: handlers may have changed it
// since.
func askedPath(r *http.Request) string {
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && original.URL != nil {
		return original.URL.EscapedPath()
	}
	return r.URL.EscapedPath()
}

func schemeOf(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

// resolve returns the reference as the caller must see it, and whether the caller may see it
// at all.
func (v *resolver) resolve(s string) (string, bool) {
	s = strings.Trim(s, " ")
	ref := parseReference(s)
	if !ref.isHTTP() {
		return s, true
	}
	if ref.isAmbiguous(s) {
		return "", false
	}
	if ref.hasQuery && v.credential != nil {
		before := ref.query
		ref.query = v.credential.WithoutCredential(before)
		ref.hasQuery = ref.query != "" || before == ""
	}
	onSite := !ref.hasAuthority
	if ref.hasAuthority {
		switch v.own.check(cmp.Or(ref.scheme, v.scheme), ref.authority) {
		case foreign:
		case callersOwn:
			if v.response.Policy.IsProxy {
				return "", false
			}
			onSite = true
		case anotherOfOurs:
			return "", false
		}
	}
	if v.response.Policy.IsProxy || onSite && leadsIntoBroker(ref.resolveAgainst(v.path)) {
		if onSite && (ref.hasAuthority || v.own.target == v.own.asked) {
			return "", false
		}
		v.absolute(&ref)
	}
	return ref.String(), true
}

// absolute resolves the reference against downstream's URL.
func (v *resolver) absolute(ref *reference) {
	if ref.scheme == "" {
		ref.scheme = v.response.Scheme
	}
	if ref.hasAuthority {
		return
	}
	base := v.response.Path
	if ref.path == "" && !ref.hasQuery {
		ref.query, ref.hasQuery = base.RawQuery, base.RawQuery != ""
	}
	ref.path = ref.resolveAgainst(base.EscapedPath())
	ref.authority, ref.hasAuthority = v.response.Host, true
}

// leadsIntoBroker reports whether a path of the broker's site may be one of its APIs. They can
// be below any prefix, so all segments count.
func leadsIntoBroker(path string) bool {
	return slices.ContainsFunc(strings.Split(path, "/"), func(segment string) bool {
		if decoded, err := url.PathUnescape(segment); err == nil {
			segment = decoded
		}
		return slices.ContainsFunc(strings.Split(segment, "/"), func(part string) bool {
			return strings.EqualFold(part, "vault") || strings.EqualFold(part, "proxy")
		})
	})
}
