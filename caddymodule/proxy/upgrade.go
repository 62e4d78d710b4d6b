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
	"github.com/tokenbroker/caddy-token-broker/caddymodule/exchange"
)

// upgrade passes on a switch to WebSocket and copies in both directions until the connection
// ends.
func (p *passage) upgrade(resp *http.Response) error {
	downstream, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || !wantsWebSocket(p.caller.r) || !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") {
		return apierror.ErrBadResponse // the caller did not ask for it
	}
	p.answer.status = http.StatusSwitchingProtocols
	header := p.caller.w.Header()
	copyHeader(header, resp.Header)
	header["Connection"], header["Upgrade"] = upgrade, websocket
	p.caller.w.WriteHeader(http.StatusSwitchingProtocols)
	caller, buffered, err := http.NewResponseController(innermost(p.caller.w)).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // the caller has been told 101, so there is no other way to fail
	}
	defer caller.Close()
	if err := buffered.Flush(); err != nil {
		return nil // the caller is gone
	}
	// Data that the caller sent right after the request is in the buffer.
	if n := buffered.Reader.Buffered(); n > 0 {
		early, _ := buffered.Peek(n)
		if _, err := downstream.Write(early); err != nil {
			return nil // downstream is gone; closing the connection tells the caller
		}
	}
	t := &tunnel{caller: caller, downstream: downstream}
	defer t.end()
	if !p.proxy.tunnels.add(t) {
		return nil
	}
	defer p.proxy.tunnels.remove(t)
	defer exchange.EndWithConnection(p.exchange.Admission, func() { t.dismiss(exchange.PolicyViolation, time.Now().Add(closeFrameTimeout)) })()
	defer context.AfterFunc(p.caller.r.Context(), t.end)()
	t.copy()
	return nil
}

// innermost returns the server's own writer. The connection of Caddy's writer, which counts
// bytes for the access log, does not support CloseWrite and concurrent writes.
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

// copy copies in both directions until both have ended, or one has failed. When one side
// closes its direction, the other side is told and may continue to send.
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

// pipe copies until from ends, then closes to for writing. It reports whether both
// succeeded.
func pipe(to io.Writer, from io.Reader) bool {
	err := exchange.Copy(from, -1, func(piece []byte) error {
		_, err := to.Write(piece)
		return err
	})
	half, ok := to.(interface{ CloseWrite() error })
	return err == nil && ok && half.CloseWrite() == nil
}

// end closes both connections.
func (t *tunnel) end() {
	_ = t.caller.Close()
	_ = t.downstream.Close()
}

// dismiss ends the tunnel, with a close frame to the caller.
func (t *tunnel) dismiss(frame []byte, deadline time.Time) {
	_ = t.caller.SetWriteDeadline(deadline)
	_, _ = t.caller.Write(frame)
	t.end()
}

// closeFrameTimeout is the timeout for writing the close frames.
const closeFrameTimeout = time.Second

// tunnels are the open tunnels of one configuration.
type tunnels struct {
	mu     sync.Mutex
	open   map[*tunnel]struct{} // guarded by mu
	closed bool                 // guarded by mu
}

func newTunnels() *tunnels { return &tunnels{open: make(map[*tunnel]struct{})} }

// add adds t. It reports false, and does not, if close was called.
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

// close ends all tunnels, with a close frame to the callers.
func (ts *tunnels) close() {
	ts.mu.Lock()
	ts.closed = true
	open := make([]*tunnel, 0, len(ts.open))
	for t := range ts.open {
		open = append(open, t)
	}
	ts.mu.Unlock()
	deadline := time.Now().Add(closeFrameTimeout) // shared by all of them
	for _, t := range open {
		t.dismiss(exchange.GoingAway, deadline)
	}
}
