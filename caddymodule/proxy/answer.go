package proxy

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
)

// An answer is the response to a caller. Those that come before it (1xx) are written by
// goroutines of net/http, which can outlive the exchange.
type answer struct {
	status int

	mu  sync.Mutex // guards what is below, and the writer until begun
	own bool       // the final answer has begun: nobody else may write
}

// early returns what hands on responses that come before the final one, such as 103
// Early Hints (RFC 8297). The server sends a 100 by itself when the body is first read.
func (a *answer) early(w http.ResponseWriter) func(int, http.Header) error {
	return func(code int, header http.Header) error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.own || code <= http.StatusContinue || code == http.StatusSwitchingProtocols || code >= http.StatusOK {
			return nil
		}
		h := w.Header()
		before := maps.Clone(h)
		handOn(h, header)
		w.WriteHeader(code)
		clear(h)
		maps.Copy(h, before)
		return nil
	}
}

// begin makes the writer that of the final answer.
func (a *answer) begin() {
	a.mu.Lock()
	a.own = true
	a.mu.Unlock()
}

// copyBuffers are what bodies are copied with.
var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// handOn sends downstream's response to the caller.
func (p *passage) handOn(resp *http.Response) error {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return p.upgrade(resp)
	}
	if resp.StatusCode < http.StatusOK || resp.StatusCode > 999 {
		return apierror.ErrBadResponse // which a server could not write
	}
	p.answer.status = resp.StatusCode
	answerHeader(p.w.Header(), resp, p.method, p.r.Method, time.Now())
	p.closeIfUnread()
	announced := announceTrailers(p.w.Header(), resp.Trailer)
	p.w.WriteHeader(resp.StatusCode)
	if p.r.Method == http.MethodHead || resp.Body == http.NoBody {
		return nil
	}
	if err := copyBody(p.w, resp); err != nil {
		// The caller must not take what has come for all there is. This ends the connection,
		// or the stream of one.
		panic(http.ErrAbortHandler)
	}
	addTrailers(p.w.Header(), resp.Trailer, announced)
	return nil
}

// copyBody copies the response's body as it comes: each piece is sent on before the next
// is read, and the header before all of them if it is not known that something follows.
func copyBody(w http.ResponseWriter, resp *http.Response) error {
	if resp.ContentLength < 0 {
		if err := flush(w); err != nil {
			return err
		}
	}
	buffer := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buffer)
	for written := int64(0); ; {
		n, err := resp.Body.Read(buffer[:])
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return err
			}
			written += int64(n)
			// The end is flushed by the server, together with what it has to add.
			if written != resp.ContentLength {
				if err := flush(w); err != nil {
					return err
				}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// flush sends what was written, if w can do that.
func flush(w http.ResponseWriter) error {
	if err := http.NewResponseController(w).Flush(); !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// announceTrailers names the trailers that the response will have, as far as downstream
// has named them.
func announceTrailers(header, trailer http.Header) (announced int) {
	for name := range trailer {
		if !isHeldBack(name) {
			header.Add("Trailer", name)
			announced++
		}
	}
	return announced
}

// addTrailers sets the trailers when they have come. Those that were not announced are
// sent all the same.
func addTrailers(header, trailer http.Header, announced int) {
	for name, values := range trailer {
		if isHeldBack(name) {
			continue
		}
		if len(trailer) != announced {
			name = http.TrailerPrefix + name
		}
		header[name] = values
	}
}
