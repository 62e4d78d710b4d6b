package exchange

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// TestCopyWaitsForAStreamWithoutABuffer holds what net/http does not promise: reading into an
// empty slice waits for the next piece of the body.
func TestCopyWaitsForAStreamWithoutABuffer(t *testing.T) {
	t.Parallel()
	var http1, http2 http.Protocols
	http1.SetHTTP1(true)
	http2.SetUnencryptedHTTP2(true)
	for name, protocols := range map[string]*http.Protocols{"HTTP/1.1": &http1, "HTTP/2": &http2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				next := make(chan string)
				body := &watchedBody{Reader: streamOver(t, protocols, next)}
				body.asked.Store(-1)
				pieces := make(chan string, 10)
				done := make(chan error, 1)
				go func() {
					done <- Copy(body, -1, func(piece []byte) error { pieces <- string(piece); return nil })
				}()
				for _, event := range []string{"", "small", strings.Repeat("large", smallBuffer), "small"} {
					if event != "" {
						next <- event
					}
					synctest.Wait()
					if asked := body.asked.Load(); asked != 0 {
						t.Errorf("after an event of %d bytes, Copy waits with a buffer of %d bytes", len(event), asked)
					}
					var got strings.Builder
					for len(pieces) > 0 {
						got.WriteString(<-pieces)
					}
					if got.String() != event {
						t.Errorf("got %d bytes, want the event of %d", got.Len(), len(event))
					}
				}
				close(next)
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A watchedBody records the size of the buffer that it was last read into.
type watchedBody struct {
	io.Reader
	asked atomic.Int64
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.asked.Store(int64(len(p)))
	return b.Reader.Read(p)
}

// streamOver returns the body of a response that has each event of next in a piece of its own,
// over connections in memory.
func streamOver(t *testing.T, protocols *http.Protocols, next <-chan string) io.Reader {
	t.Helper()
	listener := make(pipeListener)
	server := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.Flush()
		for event := range next {
			_, _ = io.WriteString(w, event)
			_ = rc.Flush()
		}
	})}
	go func() { _ = server.Serve(listener) }()
	rt := &http.Transport{Protocols: protocols, DialContext: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		listener <- far
		return near, nil
	}}
	t.Cleanup(func() {
		rt.CloseIdleConnections()
		_ = server.Close()
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://downstream/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp.Body
}

// A pipeListener is a listener for connections in memory.
type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	conn, ok := <-l
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (l pipeListener) Close() error {
	close(l)
	return nil
}

func (pipeListener) Addr() net.Addr { return &net.TCPAddr{} }
