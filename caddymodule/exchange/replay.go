package exchange

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// MaxReplayBody bounds the request bodies that are kept for being sent again, in bytes.
const MaxReplayBody = 64 << 10

// A recordedBody keeps what is read of a request's body as it is sent. It does not
// read ahead: a body that was not sent at all is there for reverse_proxy's next try.
type recordedBody struct {
	io.ReadCloser

	mu   sync.Mutex // guards what is below; net/http reads on after a response has come
	sent []byte
	done bool // all of the body is in sent
	over bool // there was too much of it
}

// recordBody makes the body of out a recorded one. It returns nil if there is none.
func recordBody(out *http.Request) *recordedBody {
	if out.Body == nil || out.Body == http.NoBody {
		return nil
	}
	b := &recordedBody{ReadCloser: out.Body, over: out.ContentLength > MaxReplayBody}
	out.Body = b
	return b
}

// Read implements [io.Reader].
func (b *recordedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over = b.over || len(b.sent)+n > MaxReplayBody; b.over {
		b.sent = nil
		return n, err
	}
	b.sent = append(b.sent, p[:n]...)
	b.done = b.done || errors.Is(err, io.EOF)
	return n, err
}

// whole returns the body if all of it was kept, nil for a request without one.
func (b *recordedBody) whole() ([]byte, bool) {
	if b == nil {
		return nil, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sent, b.done && !b.over
}
