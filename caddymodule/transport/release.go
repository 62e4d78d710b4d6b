package transport

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/exchange"
)

// releaseAtEnd releases the admission when the response body, or the upgraded connection,
// is closed. An upgraded connection ends with the admission's connection, too.
func (c *call) releaseAtEnd(resp *http.Response) {
	c.isAnswered = true
	if conn, ok := resp.Body.(io.ReadWriteCloser); ok && resp.StatusCode == http.StatusSwitchingProtocols {
		admitted := &admittedConn{ReadWriteCloser: conn, admission: c.Admission}
		if strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") {
			admitted.farewell = exchange.PolicyViolation
		}
		admitted.stop = exchange.EndWithConnection(c.Admission, admitted.end)
		resp.Body = admitted
		return
	}
	c.response = admittedBody{resp.Body, resp, &c.Exchange}
	resp.Body = &c.response
}

// An admittedBody is a response body that releases the admission.
type admittedBody struct {
	io.ReadCloser
	resp     *http.Response
	exchange *exchange.Exchange
}

// Close implements [io.Closer]. The trailers are complete.
func (b *admittedBody) Close() error {
	b.exchange.Admission.Release()
	err := b.ReadCloser.Close()
	b.exchange.Response.CleanTrailer(b.resp.Trailer)
	return err
}

// An admittedConn is an upgraded connection that releases the admission.
type admittedConn struct {
	io.ReadWriteCloser
	admission *broker.Admission
	stop      func() // the watch for the end of the admission's connection

	mu       sync.Mutex
	ended    bool   // guarded by mu; read the farewell instead of what downstream sends
	farewell []byte // guarded by mu; what is left of it
}

// end closes the connection to downstream. The caller reads the farewell before the end.
func (c *admittedConn) end() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	_ = c.ReadWriteCloser.Close()
}

// Read implements [io.Reader].
func (c *admittedConn) Read(p []byte) (int, error) {
	n, err := c.ReadWriteCloser.Read(p)
	if err == nil || n > 0 {
		return n, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		return 0, err
	}
	if n = copy(p, c.farewell); n == 0 {
		return 0, io.EOF
	}
	c.farewell = c.farewell[n:]
	return n, nil
}

// Close implements [io.Closer].
func (c *admittedConn) Close() error {
	c.stop()
	c.admission.Release()
	return c.ReadWriteCloser.Close()
}

// CloseWrite closes the connection for writing, if it supports that.
func (c *admittedConn) CloseWrite() error {
	if conn, ok := c.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return conn.CloseWrite()
	}
	return errors.ErrUnsupported
}
