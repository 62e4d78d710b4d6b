package proxy

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
)

// upgrade hands a connection that downstream has switched to WebSocket to the caller, and
// copies both ways until it ends.
func (p *passage) upgrade(resp *http.Response) error {
	downstream, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || !wantsWebSocket(p.r) || !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") {
		return apierror.ErrBadResponse // nobody has asked for it
	}
	p.answer.status = http.StatusSwitchingProtocols
	header := p.w.Header()
	handOn(header, resp.Header)
	header["Connection"], header["Upgrade"] = upgrade, websocket
	p.w.WriteHeader(http.StatusSwitchingProtocols)
	caller, buffered, err := http.NewResponseController(innermost(p.w)).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // the caller believes to have a WebSocket
	}
	defer caller.Close()
	if err := buffered.Flush(); err != nil {
		return nil // the caller is gone
	}
	// What the caller has sent already was read together with its request.
	if n := buffered.Reader.Buffered(); n > 0 {
		early, _ := buffered.Peek(n)
		if _, err := downstream.Write(early); err != nil {
			return nil // downstream is gone, which the caller sees
		}
	}
	t := &tunnel{caller: caller, downstream: downstream}
	defer t.end()
	if !p.proxy.tunnels.add(t) {
		return nil
	}
	defer p.proxy.tunnels.remove(t)
	defer context.AfterFunc(p.r.Context(), t.end)()
	t.copy()
	return nil
}

// innermost returns the server's own writer. The connection of Caddy's, which counts for
// the access log, cannot be closed for writing alone, nor written to by two goroutines.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		outer, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = outer.Unwrap()
	}
}

// A tunnel is an upgraded connection.
type tunnel struct {
	caller     net.Conn
	downstream io.ReadWriteCloser
}

// copy copies both ways until both have ended, or one has failed. When one side says that
// it will send no more, the other is told so, and may go on.
func (t *tunnel) copy() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if !pipe(t.downstream, t.caller) {
			t.end()
		}
	}()
	if !pipe(t.caller, t.downstream) {
		t.end()
	}
	<-done
}

// pipe copies until from ends and tells to so. It reports false if that is not possible,
// or went wrong.
func pipe(to io.Writer, from io.Reader) bool {
	buffer := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buffer)
	// Without the fast ways of WriteTo and ReadFrom, which would use buffers of their own.
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, buffer[:])
	half, ok := to.(interface{ CloseWrite() error })
	return err == nil && ok && half.CloseWrite() == nil
}

// end ends the tunnel at once.
func (t *tunnel) end() {
	_ = t.caller.Close()
	_ = t.downstream.Close()
}

// goingAway is a WebSocket's close frame with status 1001 (RFC 6455 sections 5.5.1 and
// 7.4.1), as a server sends it.
var goingAway = []byte{0x88, 0x02, 1001 >> 8, 1001 & 0xff}

// farewell is how long callers have to take the close frame.
const farewell = time.Second

// tunnels are those that are open by one configuration.
type tunnels struct {
	mu     sync.Mutex // guards what is below
	open   map[*tunnel]struct{}
	closed bool
}

func newTunnels() *tunnels { return &tunnels{open: make(map[*tunnel]struct{})} }

// add reports false if no tunnel is opened any more.
func (ts *tunnels) add(t *tunnel) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if !ts.closed {
		ts.open[t] = struct{}{}
	}
	return !ts.closed
}

func (ts *tunnels) remove(t *tunnel) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.open, t)
}

// close ends all tunnels and tells the callers that it was us who did.
func (ts *tunnels) close() {
	ts.mu.Lock()
	ts.closed = true
	open := make([]*tunnel, 0, len(ts.open))
	for t := range ts.open {
		open = append(open, t)
	}
	ts.mu.Unlock()
	deadline := time.Now().Add(farewell) // for all of them together
	for _, t := range open {
		_ = t.caller.SetWriteDeadline(deadline)
		_, _ = t.caller.Write(goingAway)
		t.end()
	}
}
