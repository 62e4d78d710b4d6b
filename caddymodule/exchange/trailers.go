package exchange

import (
	"net/http"
	"sync"

	"golang.org/x/net/http/httpguts"
)

// Trailers are those of a caller's request, which get their values at the end of its body. A
// request without trailers has nil.
type Trailers struct {
	names  []string
	values http.Header // changed by the reading of the body, so that names are taken before

	mu    sync.Mutex
	out   *http.Request // guarded by mu; the latest that sends the body; nil: none yet
	ended bool          // guarded by mu; the values are known
}

// TrailersOf returns the trailers of a request whose body was not begun.
func TrailersOf(r *http.Request) *Trailers {
	if len(r.Trailer) == 0 {
		return nil
	}
	t := &Trailers{values: r.Trailer}
	for name := range r.Trailer {
		if httpguts.ValidTrailerHeader(name) {
			t.names = append(t.names, name)
		}
	}
	return t
}

// SendWith makes out end with the trailers, in place of an earlier request, except those to drop:
// they are filtered like headers, since some servers merge the two.
func (t *Trailers) SendWith(out *http.Request, drop func(name string) bool) {
	out.Trailer = nil
	if t == nil {
		return
	}
	for _, name := range t.names {
		if !drop(name) {
			if out.Trailer == nil {
				out.Trailer = make(http.Header, len(t.names))
			}
			out.Trailer[name] = nil
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.out = out; t.ended {
		t.fill()
	}
}

// End is called at the end of the body, by the reading.
func (t *Trailers) End() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended && t.out != nil {
		t.fill()
	}
	t.ended = true
}

// fill passes on the values. The caller holds mu.
func (t *Trailers) fill() {
	for name := range t.out.Trailer {
		for _, value := range t.values[name] {
			if httpguts.ValidHeaderFieldValue(value) { // net/http checks headers only
				t.out.Trailer[name] = append(t.out.Trailer[name], value)
			}
		}
	}
}
