// Package fields decides how to treat the header fields of downstream's responses. To
// callers a response comes from the broker: a relative URL would lead to the broker's own
// API, a policy for an origin would hold for the broker's, and a cache would not know that
// the answer is one customer's. Package exchange applies it to all responses.
package fields

import (
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// A Policy is how the responses of one handler or transport are treated. It is immutable.
type Policy struct {
	// IsProxy says that the URL of callers' requests is not that of downstream, as in the
	// Proxy API: references are resolved. Otherwise the broker is a reverse proxy, and
	// relative references stay on its site.
	IsProxy bool

	// Vary lists the request fields of callers that decide the response.
	Vary string

	// DependsOnMore says that more than Vary decides the response.
	DependsOnMore bool

	// Own are the authorities of this server.
	Own *Authorities
}

// A Response is the context of a response: what was requested, and of whom. The zero Response
// changes nothing.
type Response struct {
	Policy *Policy
	Caller *http.Request // the caller's request to the broker

	// What was requested from downstream: scheme and host, and a URL for path and query,
	// which has no credential.
	Scheme, Host string
	Path         *url.URL

	vary [1]string // the value of Vary, in place so that no response allocates one
}

// A Stripper knows the credential of a request.
type Stripper interface {
	// WithoutCredential returns a URL's query without the parameters that carry the
	// credential.
	WithoutCredential(query string) string
}

// Clean applies the table to the header of a response, which may be a 1xx response, and
// removes the credential from the URLs in it.
func (r *Response) Clean(header http.Header, credential Stripper) {
	if r.Policy == nil {
		return
	}
	removeHopByHop(header)
	for name, values := range header {
		if isPlain(name) { // inlined
			continue
		}
		d := decide(name)
		what := d.transport
		if r.Policy.IsProxy {
			what = d.proxy
		}
		switch what {
		case kept:
		case removed:
			delete(header, name)
		default:
			if left := r.rewrite(what, values, credential); len(left) > 0 {
				header[name] = left
			} else {
				delete(header, name)
			}
		}
	}
}

// removeHopByHop removes the fields that Connection lists (RFC 9110 section 7.6.1), and
// Connection itself: later it could remove what is added here. Upgrade is the caller's to
// handle.
func removeHopByHop(header http.Header) {
	listed := header["Connection"]
	if listed == nil {
		return
	}
	for _, value := range listed {
		for name := range strings.SplitSeq(value, ",") {
			if name = canonical(strings.TrimSpace(name)); name != "Upgrade" {
				delete(header, name)
			}
		}
	}
	delete(header, "Connection")
}

// rewrite returns the values with their references as the caller must see them, without those
// that must not get there.
func (r *Response) rewrite(what action, values []string, credential Stripper) []string {
	ref := newResolver(r, credential)
	left := make([]string, 0, len(values))
	for _, value := range values {
		ok := true
		switch what {
		case resolved:
			value, ok = ref.resolve(value)
		case links:
			value, ok = ref.links(value)
		case delayed:
			value, ok = ref.refresh(value)
		case reporting:
			value = ref.reports(value)
		case challenge:
			ok = !ref.namesOwn(value)
		case kept, removed: // not called with these
		}
		if ok {
			left = append(left, value)
		}
	}
	return left
}

// CleanTrailer removes the fields that have an effect only in a header: a client may merge
// trailers into it (RFC 9110 section 6.5.1).
func (r *Response) CleanTrailer(trailer http.Header) {
	if r.Policy == nil {
		return
	}
	for name := range trailer {
		if !MayTrail(name) {
			delete(trailer, name)
		}
	}
}

// MayTrail reports whether a field with that canonical name may be in a trailer: the table
// keeps it, caches do not go by it, and it does not describe the body.
func MayTrail(name string) bool {
	d := decide(name)
	return d.proxy == kept && d.transport == kept && !slices.Contains(forCaches, name) && httpguts.ValidTrailerHeader(name)
}

// forCaches are fields that are kept in a header, but not in a trailer.
var forCaches = []string{"Cache-Control", "Vary", "Age", "Expires", "Pragma"}

func canonical(name string) string { return textproto.CanonicalMIMEHeaderKey(name) }
