package exchange

import (
	"net/http"

	"golang.org/x/net/http/httpguts"
)

// Trailers are those of a caller's request, which get their values at the end of its body.
type Trailers struct {
	names  []string
	values http.Header
}

// DeclareTrailers returns the trailers in from, except those to drop, which are filtered like
// headers, since some servers merge the two. It is called before the body is read, which
// changes from.
func DeclareTrailers(from http.Header, drop func(name string) bool) *Trailers {
	t := &Trailers{values: from}
	for name := range from {
		if httpguts.ValidTrailerHeader(name) && !drop(name) {
			t.names = append(t.names, name)
		}
	}
	return t
}

// Send declares the trailers on out. They get their values at the end of the body, from atEnd.
func (t *Trailers) Send(out *http.Request) (atEnd func()) {
	if out.Trailer = nil; len(t.names) == 0 {
		return func() {}
	}
	out.Trailer = make(http.Header, len(t.names))
	for _, name := range t.names {
		out.Trailer[name] = nil
	}
	return func() {
		for name := range out.Trailer {
			for _, value := range t.values[name] {
				if httpguts.ValidHeaderFieldValue(value) { // net/http checks headers only
					out.Trailer[name] = append(out.Trailer[name], value)
				}
			}
		}
	}
}
