package transport

import (
	"errors"
	"io"
	"net/http"

	"github.com/tokenbroker/caddy-token-broker/broker"
)

// releaseAtEnd releases the admission when the response body, or the upgraded connection,
// is closed.
func releaseAtEnd(resp *http.Response, admission *broker.Admission) {
	if conn, ok := resp.Body.(io.ReadWriteCloser); ok && resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = &admittedConn{conn, admission}
		return
	}
	resp.Body = &admittedBody{resp.Body, admission}
}

// An admittedBody is a response body that releases the admission.
type admittedBody struct {
	io.ReadCloser
	admission *broker.Admission
}

// Close implements [io.Closer].
func (b *admittedBody) Close() error {
	b.admission.Release()
	return b.ReadCloser.Close()
}

// An admittedConn is an upgraded connection that releases the admission.
type admittedConn struct {
	io.ReadWriteCloser
	admission *broker.Admission
}

// Close implements [io.Closer].
func (c *admittedConn) Close() error {
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
