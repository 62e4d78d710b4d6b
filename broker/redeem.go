package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/oauth2"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// maxTokenResponse bounds what is read of a token endpoint's answer, in bytes.
const maxTokenResponse = 1 << 20

// redeem sends one token request, once: over HTTP/1.1 on a connection of its own,
// without following redirects, without a second try in whatever form.
func (a *attempt) redeem(ctx context.Context, held *hold, sentAt time.Time) (ans record.Answer) {
	b := a.refresher.broker
	timeout := a.cfg.refreshTimeout()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ctx, span := b.tracing.start(ctx, "token_broker.token_request", trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(connectorAttribute(a.refresher.key), attribute.String("http.request.method", http.MethodPost)))
	defer func() {
		if ans.Status != 0 {
			span.SetAttributes(attribute.Int("http.response.status_code", ans.Status))
		}
		endSpan(span, ans.Err())
	}()

	tokenURL, err := a.conn.TokenEndpoint(held.rec)
	if err != nil {
		return record.Answer{Class: record.ClassTransient, Code: record.CodeMissingSettings} // checked before the lease was taken
	}
	if u, err := url.Parse(tokenURL); err == nil {
		span.SetAttributes(attribute.String("server.address", u.Hostname()))
	}
	once := &tokenTransport{base: b.transport(a.cfg.AllowsPrivate(a.conn)), json: a.conn.TokenBody == connector.BodyJSON}
	client := withoutRedirects(once)
	a.refresher.setUnsent()
	token, err := requestToken(context.WithValue(ctx, oauth2.HTTPClient, client), a.conn, tokenURL, held.rec)
	ans = classify(once, token, err, &a.conn.Definition, a.conn.Secrets(held.rec), sentAt)
	if a.conn.Grant().IgnoresRefreshTokens {
		ans.RefreshToken = secret.String{}
	}
	ans.SentAt = sentAt
	if ans.Class == record.ClassTransient {
		a.refresher.setUnsent(held.lease.ID) // nothing was spent with the lease
	}
	return ans
}

// withoutRedirects returns a client that sends nothing secret on to where it is told to.
func withoutRedirects(transport http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// A tokenTransport sends one token request and keeps what came back. x/oauth2 drops
// a refresh token that comes without an access token, or in a body that it cannot
// read: it is lost then, unless it is kept here.
type tokenTransport struct {
	base http.RoundTripper
	json bool // the request is sent as a JSON object

	handed   atomic.Bool // the whole request was handed over for writing
	unsent   atomic.Bool // and then could not be written whole
	status   int
	header   http.Header
	body     []byte
	complete bool // body is all of the response's
	cut      bool // it broke off
	late     bool // because the deadline had passed
}

var errSentAlready = errors.New("the token request was sent already")

// RoundTrip implements [http.RoundTripper].
func (t *tokenTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if t.sent() || t.status != 0 {
		return nil, errSentAlready
	}
	req = req.Clone(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		WroteRequest: func(info httptrace.WroteRequestInfo) {
			if info.Err != nil {
				t.unsent.Store(true)
			}
		},
	}))
	if t.json {
		if err := encodeJSON(req); err != nil {
			return nil, err
		}
	}
	if req.Body != nil {
		req.Body = &handedBody{ReadCloser: req.Body, left: req.ContentLength, handed: &t.handed}
	}
	req.GetBody = nil // with it net/http could send the body again
	req.Header.Set("Accept", "application/json")
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	t.status, t.header = resp.StatusCode, resp.Header
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenResponse+1))
	t.complete, t.cut = err == nil && len(body) <= maxTokenResponse, err != nil
	t.late = t.cut && errors.Is(req.Context().Err(), context.DeadlineExceeded)
	t.body = body[:min(len(body), maxTokenResponse)]
	resp.Body = io.NopCloser(bytes.NewReader(t.body))
	if t.isJSON() {
		// Some endpoints name another type, which x/oauth2 would believe.
		resp.Header = resp.Header.Clone()
		resp.Header.Set("Content-Type", "application/json")
	}
	return resp, nil
}

// encodeJSON makes the form in the body of a request a JSON object of strings.
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

// sent reports whether the token endpoint may have the whole request. net/http tells
// of a finished write only afterwards, and too late for an answer that has timed out
// meanwhile: so a request counts as sent from the moment that its last byte was read
// for writing, unless writing is known to have failed.
func (t *tokenTransport) sent() bool { return t.handed.Load() && !t.unsent.Load() }

// A handedBody notes when all of it was read.
type handedBody struct {
	io.ReadCloser
	left   int64 // bytes of it, as far as known
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

func (t *tokenTransport) isJSON() bool {
	return bytes.HasPrefix(bytes.TrimSpace(t.body), []byte("{"))
}

// fields reads the members of the answer that are strings, as leniently as can be, and
// those of an object in "error" as "error.code" and the like.
func (t *tokenTransport) fields() map[string]string {
	fields := make(map[string]string)
	if t.isJSON() {
		var members map[string]json.RawMessage
		if json.Unmarshal(t.body, &members) != nil {
			return nil
		}
		addStrings(fields, "", members)
		var nested map[string]json.RawMessage
		if json.Unmarshal(members["error"], &nested) == nil {
			addStrings(fields, "error.", nested)
		}
		return fields
	}
	if kind, _, _ := mime.ParseMediaType(t.header.Get("Content-Type")); kind != "application/x-www-form-urlencoded" && kind != "text/plain" {
		return nil
	}
	values, err := url.ParseQuery(string(t.body))
	if err != nil {
		return nil
	}
	for name := range values {
		fields[name] = values.Get(name)
	}
	return fields
}

func addStrings(fields map[string]string, prefix string, members map[string]json.RawMessage) {
	for name, raw := range members {
		var s string
		if json.Unmarshal(raw, &s) == nil {
			fields[prefix+name] = s
		}
	}
}
