package transport

import (
	"errors"
	"io"
	"net/http"

	"github.com/tokenbroker/caddy-token-broker/broker"
)

// releaseAtEnd releases the admission when the response has been read, or when the
// connection ends that the request was upgraded to.
func releaseAtEnd(resp *http.Response, admission *broker.Admission) {
	if conn, ok := resp.Body.(io.ReadWriteCloser); ok && resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = &admittedConn{conn, admission}
		return
	}
	resp.Body = &admittedBody{resp.Body, admission}
}

// An admittedBody is a response's body.
type admittedBody struct {
	io.ReadCloser
	admission *broker.Admission
}

// Close implements [io.Closer].
func (b *admittedBody) Close() error {
	b.admission.Release()
	return b.ReadCloser.Close()
}

// An admittedConn is an upgraded connection.
type admittedConn struct {
	io.ReadWriteCloser
	admission *broker.Admission
}

// Close implements [io.Closer].
func (c *admittedConn) Close() error {
	c.admission.Release()
	return c.ReadWriteCloser.Close()
}

// CloseWrite ends one direction, where the connection can do that.
func (c *admittedConn) CloseWrite() error {
	if conn, ok := c.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return conn.CloseWrite()
	}
	return errors.ErrUnsupported
}
