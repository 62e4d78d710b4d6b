package exchange

import (
	"net/http"

	"golang.org/x/net/http/httpguts"
)

// SendTrailers declares on out the trailers in from, except those to drop, which are filtered
// like headers, since some servers merge the two. from gets its values at the end of the
// body; atEnd passes them on.
func SendTrailers(out *http.Request, from http.Header, drop func(name string) bool) (atEnd func()) {
	out.Trailer = make(http.Header, len(from))
	for name := range from {
		if httpguts.ValidTrailerHeader(name) && !drop(name) {
			out.Trailer[name] = nil
		}
	}
	return func() {
		for name := range out.Trailer {
			for _, value := range from[name] {
				if httpguts.ValidHeaderFieldValue(value) { // net/http checks headers only
					out.Trailer[name] = append(out.Trailer[name], value)
				}
			}
		}
	}
}
