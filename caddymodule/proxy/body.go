package proxy

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A callersBody is the body of a caller's request on its way downstream. It notes when
// it last moved, and how reading it went wrong if it did. After close nothing is read of
// it any more: net/http may want to, and the request is the server's again then.
type callersBody struct {
	io.ReadCloser
	onEnd   func()        // called when all of it was read
	movedAt *atomic.Int64 // when something was last read, Unix nanoseconds

	mu     sync.Mutex // guards what is below
	closed bool
	ended  bool  // it was read to its end
	cut    bool  // reading it was cut off
	err    error // of reading it
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
	if !b.ended {
		b.onEnd()
	}
	b.ended = true
}

// Close implements [io.Closer]. It does not close the caller's body: that would wait for
// a read under way, which can wait for the caller. The server does it in the end.
func (b *callersBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return nil
}

// fault returns what was wrong with the body, nil if nothing was.
func (b *callersBody) fault() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// cutOff notes that reading the body is about to be cut off. It reports false if that is
// not needed, since all of it was read.
func (b *callersBody) cutOff() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cut = !b.ended
	return b.cut
}

// isUnread reports whether there is a body of which not all was read.
func (b *callersBody) isUnread() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.ended || b.cut
}

// sendTrailers makes the caller's trailers those of out, once they have come. Those
// that must not be headers must not be trailers either, for some servers merge them.
func sendTrailers(out, r *http.Request, injected []string) (onEnd func()) {
	if len(r.Trailer) == 0 {
		return func() {}
	}
	out.Trailer = make(http.Header, len(r.Trailer))
	for name, values := range r.Trailer {
		if name != "" && !isKeptBack(name) && !slices.Contains(injected, name) {
			out.Trailer[name] = values
		}
	}
	return func() {
		for name := range out.Trailer {
			out.Trailer[name] = r.Trailer[name]
		}
	}
}
