package tokenendpoint

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
)

// maxResponse bounds a token endpoint's response, in bytes: what is read of it, and what that
// becomes when it is decompressed.
const maxResponse = 1 << 20

// An exchange carries one token request and keeps the response.
type exchange struct {
	handed   atomic.Bool // the whole request was read for writing
	unsent   atomic.Bool // writing it failed
	status   int
	header   http.Header
	body     []byte // without content coding and byte order mark
	complete bool   // body is all of the response's
	cut      bool   // the body broke off
	timedOut bool   // it broke off because ctx's deadline passed
}

// send sends the request. It does not follow redirects, which could lead the secrets
// elsewhere.
func (x *exchange) send(rt http.RoundTripper, req *http.Request) error {
	trace := &httptrace.ClientTrace{
		WroteRequest: func(info httptrace.WroteRequestInfo) {
			if info.Err != nil {
				x.unsent.Store(true)
			}
		},
	}
	if req.ContentLength == 0 { // GET
		req.Body = nil
		trace.GotConn = func(httptrace.GotConnInfo) { x.handed.Store(true) }
	} else {
		req.Body = &handedBody{ReadCloser: req.Body, left: req.ContentLength, handed: &x.handed}
	}
	ctx := req.Context()
	resp, err := rt.RoundTrip(req.WithContext(httptrace.WithClientTrace(ctx, trace)))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	x.status, x.header = resp.StatusCode, resp.Header
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	x.timedOut = err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded)
	decoded, decodeErr := decode(resp.Header.Get("Content-Encoding"), body)
	x.cut = err != nil || decodeErr != nil
	x.complete = !x.cut && len(body) <= maxResponse && len(decoded) <= maxResponse
	x.body = bytes.TrimPrefix(decoded[:min(len(decoded), maxResponse)], byteOrderMark)
	return nil
}

// byteOrderMark is that of UTF-8, which RFC 8259 section 8.1 lets parsers of JSON ignore.
var byteOrderMark = []byte("\xef\xbb\xbf")

// sent reports whether the token endpoint may have the whole request. net/http reports a
// finished write only afterwards, which can be after the response has timed out. So a request
// counts as sent once its last byte was read for writing, unless writing is known to have
// failed.
func (x *exchange) sent() bool { return x.handed.Load() && !x.unsent.Load() }

// A handedBody records that all of it was read.
type handedBody struct {
	io.ReadCloser
	left   int64 // unread bytes, by the Content-Length
	handed *atomic.Bool
}

// Read implements [io.Reader].
func (b *handedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); err != nil || b.left <= 0 {
		b.handed.Store(true)
	}
	return n, err
}
