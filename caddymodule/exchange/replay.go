package exchange

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// maxReplayBody is the size, in bytes, up to which request bodies are kept to be sent again.
const maxReplayBody = 64 << 10

// A recordedBody records a request body as it is sent. It does not read ahead, so that
// reverse_proxy can still retry a request whose body was never sent.
type recordedBody struct {
	io.ReadCloser

	mu   sync.Mutex // net/http may keep reading after the response has arrived
	sent []byte     // guarded by mu
	done bool       // guarded by mu; sent is the whole body
	over bool       // guarded by mu; the body exceeds maxReplayBody
}

// recordBody replaces the body of out with a recorded one. It returns nil if out has no body.
func recordBody(out *http.Request) *recordedBody {
	if out.Body == nil || out.Body == http.NoBody {
		return nil
	}
	b := &recordedBody{ReadCloser: out.Body, over: out.ContentLength > maxReplayBody}
	out.Body = b
	return b
}

// Read implements [io.Reader].
func (b *recordedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over = b.over || len(b.sent)+n > maxReplayBody; b.over {
		b.sent = nil
		return n, err
	}
	b.sent = append(b.sent, p[:n]...)
	b.done = b.done || errors.Is(err, io.EOF)
	return n, err
}

// whole returns the body and whether all of it was recorded. Without a body it returns nil
// and true.
func (b *recordedBody) whole() ([]byte, bool) {
	if b == nil {
		return nil, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sent, b.done && !b.over
}
