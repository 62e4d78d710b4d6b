package transport

import (
	"errors"
	"io"
	"net/http"
	"sync"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/exchange"
)

// A callersBody is the body of a caller's request. It records whether reading it failed, so
// that the caller is blamed instead of the upstream.
type callersBody struct {
	io.ReadCloser
	http1     bool // the caller's connection ends with a body that cannot be read
	isChunked bool // its end is not known ahead
	awaits100 bool // the caller may never send it
	trailers  *exchange.Trailers

	mu    sync.Mutex
	begun bool  // guarded by mu; reading has begun
	ended bool  // guarded by mu; read in full
	err   error // guarded by mu; of reading
}

// newCallersBody returns nil if req has no body.
func newCallersBody(req *http.Request) *callersBody {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	return &callersBody{
		ReadCloser: req.Body, http1: req.ProtoMajor == 1, isChunked: req.ContentLength < 0, awaits100: req.Header["Expect"] != nil,
		trailers: exchange.TrailersOf(req),
	}
}

// Read implements [io.Reader].
func (b *callersBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.begun = true
	b.mu.Unlock()
	n, err := b.ReadCloser.Read(p)
	if err == nil || errors.Is(err, http.ErrBodyReadAfterClose) { // reading went on after the exchange
		return n, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case errors.Is(err, io.EOF):
		b.ended = true
		b.trailers.End()
	case b.err == nil:
		b.err = err
	}
	return n, err
}

// fault returns the error that the caller gets if reading the body failed, otherwise nil.
func (b *callersBody) fault() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		return nil
	}
	return errors.Join(apierror.ErrUnreadBody, b.err)
}

// endConnection makes the server close the caller's connection after resp, unless the end of
// the body is known: what follows could be read as another request (RFC 9112 section 6.3).
// Of a body that was not begun the server finds the end itself, but would wait for one that is
// announced by Expect, forever. For HTTP/2 it is not needed.
func (b *callersBody) endConnection(resp *http.Response) {
	if b == nil || !b.http1 {
		return
	}
	b.mu.Lock()
	unknown := b.err != nil || !b.ended && (b.isChunked && b.begun || b.awaits100)
	b.mu.Unlock()
	if unknown && resp.StatusCode != http.StatusSwitchingProtocols {
		// reverse_proxy removes the canonical spelling, which would concern its own connection, and
		// restores it when it copies the headers.
		resp.Header["connection"] = []string{"close"} //nolint:canonicalheader // see above
	}
}

// isHopByHop reports whether a header concerns a single connection (RFC 9110 section 7.6.1)
// or is written by net/http.
func isHopByHop(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Te", "Upgrade", "Host", "Http2-Settings":
		return true
	default:
		return false
	}
}
