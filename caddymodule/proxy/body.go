package proxy

import (
	"errors"
	"io"
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
	closed bool  // guarded by mu
	ended  bool  // guarded by mu; read in full
	cut    bool  // guarded by mu; reading is being interrupted
	err    error // guarded by mu; of reading
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
	b.ended = true
	b.trailers.End()
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
