package tokenendpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
)

// maxResponse bounds how much of a token endpoint's response is read, in bytes.
const maxResponse = 1 << 20

// An exchange carries one token request and keeps the response. x/oauth2 drops a refresh token
// that comes without an access token, or in a body that it cannot read. It would be lost if it
// were not kept here.
type exchange struct {
	base http.RoundTripper
	json bool // send the request as a JSON object

	handed   atomic.Bool // the whole request was read for writing
	unsent   atomic.Bool // writing it failed
	status   int
	header   http.Header
	body     []byte
	complete bool // body is all of the response's
	cut      bool // the body broke off
	timedOut bool // it broke off because ctx's deadline passed
}

var errSentAlready = errors.New("the token request was already sent")

// RoundTrip implements [http.RoundTripper].
func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	if x.sent() || x.status != 0 {
		return nil, errSentAlready
	}
	req = req.Clone(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		WroteRequest: func(info httptrace.WroteRequestInfo) {
			if info.Err != nil {
				x.unsent.Store(true)
			}
		},
	}))
	if x.json {
		if err := encodeJSON(req); err != nil {
			return nil, err
		}
	}
	if req.Body != nil {
		req.Body = &handedBody{ReadCloser: req.Body, left: req.ContentLength, handed: &x.handed}
	}
	req.GetBody = nil // net/http could use it to send the body again
	req.Header.Set("Accept", "application/json")
	resp, err := x.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	x.status, x.header = resp.StatusCode, resp.Header
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	x.complete, x.cut = err == nil && len(body) <= maxResponse, err != nil
	x.timedOut = x.cut && errors.Is(req.Context().Err(), context.DeadlineExceeded)
	x.body = body[:min(len(body), maxResponse)]
	resp.Body = io.NopCloser(bytes.NewReader(x.body))
	if x.isJSON() {
		// Some endpoints send another type, and x/oauth2 trusts it.
		resp.Header = resp.Header.Clone()
		resp.Header.Set("Content-Type", "application/json")
	}
	return resp, nil
}

// encodeJSON replaces the form in the body of a request by a JSON object of strings.
func encodeJSON(req *http.Request) error {
	form, err := io.ReadAll(req.Body)
	if err != nil {
		return err
	}
	values, err := url.ParseQuery(string(form))
	if err != nil {
		return errors.New("the token request is not a form") // err could quote it
	}
	members := make(map[string]string, len(values))
	for name := range values {
		members[name] = values.Get(name)
	}
	body, err := json.Marshal(members)
	if err != nil {
		return err
	}
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	req.Header.Set("Content-Type", "application/json")
	return nil
}

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

// isJSON reports whether the response looks like a JSON object, whatever its Content-Type.
func (x *exchange) isJSON() bool {
	return bytes.HasPrefix(bytes.TrimSpace(x.body), []byte("{"))
}
