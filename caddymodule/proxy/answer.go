package proxy

import (
	"errors"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/exchange"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/fields"
)

// An answer is the response to a caller. The 1xx responses before it are written by
// goroutines of net/http, which may outlive the exchange.
type answer struct {
	status int

	mu    sync.Mutex // also guards the ResponseWriter until begin is called
	begun bool       // guarded by mu; the final response has begun, no 1xx may be written
}

// early returns a function that passes on 1xx responses, such as 103 Early Hints (RFC 8297),
// except 100, which the server sends itself when the body is first read.
func (a *answer) early(w http.ResponseWriter) func(int, http.Header) error {
	return func(code int, header http.Header) error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.begun || code <= http.StatusContinue || code == http.StatusSwitchingProtocols || code >= http.StatusOK {
			return nil
		}
		h := w.Header()
		before := maps.Clone(h)
		copyHeader(h, header)
		w.WriteHeader(code)
		clear(h)
		maps.Copy(h, before)
		return nil
	}
}

// begin reserves the writer for the final response.
func (a *answer) begin() {
	a.mu.Lock()
	a.begun = true
	a.mu.Unlock()
}

// respond passes downstream's response on to the caller.
func (p *passage) respond(resp *http.Response) error {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return p.upgrade(resp)
	}
	if resp.StatusCode < http.StatusOK || resp.StatusCode > 999 {
		return apierror.ErrBadResponse // net/http could not write it
	}
	p.answer.status = resp.StatusCode
	answerHeader(p.caller.w.Header(), resp, p.method, p.caller.r.Method, time.Now())
	p.closeIfUnread()
	announced := announceTrailers(p.caller.w.Header(), resp.Trailer)
	p.caller.w.WriteHeader(resp.StatusCode)
	if p.caller.r.Method == http.MethodHead || resp.Body == http.NoBody {
		return nil
	}
	if err := copyBody(p.caller.w, resp); err != nil {
		// Reset the connection or the HTTP/2 stream, so that the caller does not mistake the
		// part for the whole.
		panic(http.ErrAbortHandler)
	}
	addTrailers(p.caller.w.Header(), resp.Trailer, announced)
	return nil
}

// copyBody streams the response body: each piece is flushed before the next is read, and if
// the length is unknown, the header is flushed first.
func copyBody(w http.ResponseWriter, resp *http.Response) error {
	if resp.ContentLength < 0 {
		if err := flush(w); err != nil {
			return err
		}
	}
	written := int64(0)
	return exchange.Copy(resp.Body, resp.ContentLength, func(piece []byte) error {
		if _, err := w.Write(piece); err != nil {
			return err
		}
		written += int64(len(piece))
		if written == resp.ContentLength {
			return nil // the server flushes the last piece, together with the end of the response
		}
		return flush(w)
	})
}

// flush flushes w if it can be flushed.
func flush(w http.ResponseWriter) error {
	if err := http.NewResponseController(w).Flush(); !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

func dropInTrailer(name string) bool { return dropInResponse(name) || !fields.MayTrail(name) }

// announceTrailers sets the Trailer header to the trailers that downstream announced, and
// returns their number.
func announceTrailers(header, trailer http.Header) (announced int) {
	for name := range trailer {
		if !dropInTrailer(name) {
			header.Add("Trailer", name)
			announced++
		}
	}
	return announced
}

// addTrailers sets the trailers after the body, including any that were not announced.
func addTrailers(header, trailer http.Header, announced int) {
	for name, values := range trailer {
		if dropInTrailer(name) {
			continue
		}
		if len(trailer) != announced {
			name = http.TrailerPrefix + name
		}
		header[name] = values
	}
}
