package exchange

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenbroker/caddy-token-broker/broker/guard"
)

// Dial connects to downstream. Its errors are dial errors, which reverse_proxy retries,
// except [guard.ErrAddressNotAllowed].
func Dial(ctx context.Context, dialer *net.Dialer, network, address string) (net.Conn, error) {
	quietNetHTTP()
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil && !errors.Is(err, guard.ErrAddressNotAllowed) {
		return nil, reverseproxy.NewDialError(err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		return tcpConn{tcp}, nil
	}
	return conn, err
}

// A tcpConn sends request bodies through buffers that are used again. Without TLS, net/http copies
// a body with ReadFrom, for which net.TCPConn allocates and clears 32 KiB each time.
type tcpConn struct{ *net.TCPConn }

// ReadFrom implements [io.ReaderFrom].
func (c tcpConn) ReadFrom(r io.Reader) (int64, error) {
	buffer := large.Get().(*[largeBuffer]byte)
	defer large.Put(buffer)
	return io.CopyBuffer(struct{ io.Writer }{c.TCPConn}, r, buffer[:])
}

// net/http logs up to 4 KiB of what a server sends on an idle connection, such as a body
// after the response to HEAD. Downstream may echo the credential there. The message cannot
// be turned off; it goes to the standard library's log, which Caddy redirects to its own.
var unsolicited = []byte("Unsolicited response received on idle HTTP channel")

const unsolicitedInstead = "Unsolicited response received on idle HTTP channel; not shown, as it may contain a credential\n"

// A quietWriter writes the standard library's log without what downstream sent.
type quietWriter struct{ io.Writer }

// Write implements [io.Writer]. p is one log entry.
func (w quietWriter) Write(p []byte) (int, error) {
	if !bytes.Contains(p, unsolicited) {
		return w.Writer.Write(p)
	}
	if _, err := io.WriteString(w.Writer, unsolicitedInstead); err != nil {
		return 0, err
	}
	return len(p), nil
}

var quieting sync.Mutex // serialises quietNetHTTP, so that the log is wrapped once

// quietNetHTTP keeps the standard library's log from quoting downstream. It is called for
// each connection, since a new configuration may have redirected the log.
func quietNetHTTP() {
	quieting.Lock()
	defer quieting.Unlock()
	if w := log.Writer(); !isQuiet(w) {
		log.SetOutput(quietWriter{w})
	}
}

func isQuiet(w io.Writer) bool {
	_, ok := w.(quietWriter)
	return ok
}
