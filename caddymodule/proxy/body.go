package proxy

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/exchange"
)

// A callersBody is the body of a caller's request. It records when data was last read, and
// any error. After Close it reads nothing more: net/http's transport may still try, but the
// request then belongs to the server again.
type callersBody struct {
	io.ReadCloser
	movedAt  *atomic.Int64 // when data was last read, in Unix nanoseconds
	trailers *exchange.Trailers

	mu     sync.Mutex
	onEnd  func() // guarded by mu; called at the end of the body; nil until a request sends it
	closed bool   // guarded by mu
	ended  bool   // guarded by mu; read in full
	cut    bool   // guarded by mu; reading is being interrupted
	err    error  // guarded by mu; of reading
}

var errBodyClosed = errors.New("the request is over")

// Read implements [io.Reader].
func (b *callersBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return 0, errBodyClosed
	}
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.movedAt.Store(time.Now().UnixNano())
	}
	if err != nil {
		b.end(err)
	}
	return n, err
}

func (b *callersBody) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !errors.Is(err, io.EOF) {
		b.err = err
		return
	}
	if !b.ended && b.onEnd != nil {
		b.onEnd()
	}
	b.ended = true
}

// atEnd arranges for onEnd to be called at the end of the body, at once if it has been read. It
// reports whether this is the first request that sends the body.
func (b *callersBody) atEnd(onEnd func()) (isFirst bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	isFirst = b.onEnd == nil
	if b.ended {
		onEnd()
	}
	b.onEnd = onEnd
	return isFirst
}

// Close implements [io.Closer]. It does not close the caller's body, which would wait for a
// read in progress and so for the caller. The server closes it later.
func (b *callersBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return nil
}

// fault returns the error of reading the body, if any.
func (b *callersBody) fault() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// cutOff marks the body as interrupted, unless it has been read in full. It reports whether
// reading has to be interrupted.
func (b *callersBody) cutOff() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cut = !b.ended
	return b.cut
}

// isUnread reports whether there is a body that was not read in full.
func (b *callersBody) isUnread() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.ended || b.cut
}

// sendTrailers declares the caller's trailers on out. The function it returns fills them in,
// at the end of the body.
func (p *passage) sendTrailers(out *http.Request) (atEnd func()) {
	if p.body.trailers == nil { // otherwise the body may be being read
		injected := p.proxy.app.Broker().InjectedHeaders(p.exchange.Admission.Key().Connector)
		p.body.trailers = exchange.DeclareTrailers(p.caller.r.Trailer, func(name string) bool {
			return name == "" || dropInRequest(name) || slices.Contains(injected, name)
		})
	}
	return p.body.trailers.Send(out)
}
