package broker

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// ErrorHeader is set on responses that the broker made itself; on responses of
// downstream it is removed, so that they cannot pass for such.
const ErrorHeader = "X-Token-Broker-Error"

// ImportHeader says what an import did to the credentials, see [record.ImportOutcome]. It too
// is removed from responses of downstream.
const ImportHeader = "X-Token-Broker-Import"

// An Authorization is a credential that was put into a request.
type Authorization struct {
	refresher  *refresher
	conn       *record.Connector
	generation uint64
	values     []secret.String // what responses are not to show
	callers    bool            // it is none of the connection's, see [Broker.AuthorizeWith]
}

// Authorize puts the connection's credential into req, a request to downstream that
// is the caller's own to change. Whatever stands where the credential goes is
// replaced; no other header is touched.
//
// Before a token is fetched the request's host is checked. Errors: [ErrHostNotAllowed],
// [record.ErrConnectorNotFound], [record.ErrConnectionNotFound], [ErrConnectionDisabled],
// [*record.TokenError], [*record.InputError], [record.ErrStoreUnavailable], the request context's.
func (b *Broker) Authorize(req *http.Request, key record.Key) (*Authorization, error) {
	if err := key.Validate(); err != nil {
		return nil, err
	}
	return b.refresher(key).authorize(req, isTraced(req.Context()))
}

// Authorize is [Broker.Authorize] for the connection that was admitted.
func (a *Admission) Authorize(req *http.Request) (*Authorization, error) {
	return a.refresher.authorize(req, a.traced)
}

// authorize is called for keys that are valid.
func (r *refresher) authorize(req *http.Request, traced bool) (_ *Authorization, err error) {
	ctx := req.Context()
	if traced {
		var span trace.Span
		ctx, span = r.broker.tracing.start(ctx, "token_broker.inject", trace.WithAttributes(connectorAttribute(r.key)))
		defer func() { endSpan(span, err) }()
	}
	cfg := r.broker.Config()
	conn, err := cfg.configured(r.key.Connector)
	if err != nil {
		return nil, err
	}
	snap, err := r.latest(ctx)
	if err != nil {
		return nil, err
	}
	if err := snap.allows(cfg, conn, req.URL); err != nil {
		return nil, err
	}
	checked := snap
	if snap, err = r.usable(ctx, conn, snap); err != nil {
		return nil, err
	}
	if snap != checked { // its settings can be others, too
		if err := snap.allows(cfg, conn, req.URL); err != nil {
			return nil, err
		}
	}
	auth := &Authorization{refresher: r, conn: conn, generation: snap.rec.Generation}
	return auth, auth.placeAll(req, snap)
}

// An allowance is where the credential of a snapshot may be sent, as was found out.
type allowance struct {
	conn         *record.Connector // as it was configured then
	private      bool
	scheme, host string
}

// allows reports whether the snapshot's credential may be sent to u. Most requests of a
// connection go to one host, so the latest that was allowed is remembered.
func (s *snapshot) allows(cfg *Config, conn *record.Connector, u *url.URL) error {
	private := cfg.AllowsPrivate(conn)
	if known := s.allowed.Load(); known != nil &&
		known.conn == conn && known.private == private && known.scheme == u.Scheme && known.host == u.Host {
		return nil
	}
	if err := allowsHost(cfg, conn, u, s.rec.Settings); err != nil {
		return err
	}
	s.allowed.Store(&allowance{conn, private, u.Scheme, u.Host})
	return nil
}

// allowsHost reports whether a credential may be sent to u.
func allowsHost(cfg *Config, conn *record.Connector, u *url.URL, settings map[string]any) error {
	if err := cfg.definition(conn).AllowsHost(u.Scheme, u.Host, settings); err != nil {
		return fmt.Errorf("%w: %w", ErrHostNotAllowed, err) // which names the connector
	}
	return nil
}

// injectionsFor returns what goes into the requests of a connection. Its error is a
// [*record.TokenError] of credentials that cannot be put where they belong.
func injectionsFor(c *record.Connector, rec *record.Record) ([]connector.Injection, error) {
	token := ""
	if rec.Credentials != nil {
		token = rec.Credentials.AccessToken.Reveal()
	}
	injections, err := c.Injections(rec.Settings, token)
	if err == nil {
		return injections, nil
	}
	failure := &record.TokenError{Key: rec.Key, Class: record.ClassConfiguration, Code: record.CodeInvalidCredential, BadSettings: true, Err: err}
	if fault, ok := errors.AsType[*connector.SettingError](err); ok && fault.IsMissing() || errors.Is(err, connector.ErrNoAccessToken) {
		failure.Code = record.CodeMissingSettings
	}
	return nil, failure
}

// sent notes a value that responses are not to show.
func (a *Authorization) sent(value string) { a.values = append(a.values, secret.New(value)) }

// forms are those that a value may have in a header. None is shorter than the value. In
// base64 it is found with and without padding.
func forms(value string) []string {
	b := []byte(value)
	all := []string{value}
	for _, form := range []string{
		url.QueryEscape(value), url.PathEscape(value), base64.RawStdEncoding.EncodeToString(b), base64.RawURLEncoding.EncodeToString(b),
	} {
		if !slices.Contains(all, form) {
			all = append(all, form)
		}
	}
	return all
}

// removeHeader removes a header in any spelling of its name.
func removeHeader(req *http.Request, name string) {
	for other := range req.Header {
		if len(other) == len(name) && strings.EqualFold(other, name) {
			delete(req.Header, other)
		}
	}
}

// setHeader sets a header and removes it in any other spelling of its name.
func setHeader(req *http.Request, name, value string) {
	removeHeader(req, name)
	req.Header[textproto.CanonicalMIMEHeaderKey(name)] = []string{value}
}

// setCookie sets a cookie, and removes those of its name that stand there in whatever
// header; others stay (RFC 6265 section 5.4).
func setCookie(req *http.Request, name, value string) {
	var spellings []string // in a fixed order, as the order of cookies can matter
	for other := range req.Header {
		if strings.EqualFold(other, "Cookie") {
			spellings = append(spellings, other)
		}
	}
	slices.Sort(spellings)
	var kept []string
	for _, other := range spellings {
		for pair := range strings.SplitSeq(strings.Join(req.Header[other], ";"), ";") {
			pair = strings.TrimSpace(pair)
			if key, _, _ := strings.Cut(pair, "="); pair != "" && strings.TrimSpace(key) != name {
				kept = append(kept, pair)
			}
		}
	}
	setHeader(req, "Cookie", strings.Join(append(kept, name+"="+value), "; "))
}

// setQuery replaces a query parameter and leaves the others as they were written.
func setQuery(u *url.URL, name, value string) {
	var kept []string
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		if pair != "" && !setsParameter(pair, name) {
			kept = append(kept, pair)
		}
	}
	u.RawQuery = strings.Join(append(kept, url.QueryEscape(name)+"="+url.QueryEscape(value)), "&")
}

// setsParameter reports whether a part of a query sets the parameter name, for
// servers too that take a semicolon for an ampersand. What cannot be decoded might.
func setsParameter(pair, name string) bool {
	for part := range strings.SplitSeq(pair, ";") {
		key, _, _ := strings.Cut(part, "=")
		if decoded, err := url.QueryUnescape(key); err != nil || decoded == name {
			return true
		}
	}
	return false
}

// HandleResponse is called with downstream's response: it takes note of a 401, and removes
// from the headers what only the broker may say and what the caller may not see.
// Trailers come after the body: it is read through one that does the same at its end.
// That of a switch of protocols stays what it is, a connection.
func (a *Authorization) HandleResponse(resp *http.Response) {
	a.Scrub(resp.Header)
	a.Scrub(resp.Trailer) // the names that were announced; the values come at the end
	if phrase := http.StatusText(resp.StatusCode); !strings.HasSuffix(resp.Status, phrase) || len(resp.Status) != len("200 ")+len(phrase) {
		resp.Status = strconv.Itoa(resp.StatusCode) + " " + phrase // which a configuration can hand on
	}
	if resp.Body != nil && resp.StatusCode != http.StatusSwitchingProtocols && mayHaveTrailers(resp) {
		resp.Body = &scrubbedBody{ReadCloser: resp.Body, auth: a, resp: resp}
	}
	switch {
	case a.callers:
	case resp.StatusCode == http.StatusUnauthorized:
		a.rejected()
	default:
		a.refresher.accepted(a.generation)
	}
}

// mayHaveTrailers reports whether trailers can follow the body: in HTTP/1.1 only if it
// is chunked (RFC 9112 section 7.1.2), so not if its length is known.
func mayHaveTrailers(resp *http.Response) bool {
	return resp.ProtoMajor != 1 || resp.ContentLength < 0 || len(resp.Trailer) > 0
}

// Scrub removes from a header of downstream what only the broker may say and what the
// caller may not see. [Authorization.HandleResponse] does it for a response; this is for those
// before it (1xx).
func (a *Authorization) Scrub(header http.Header) {
	delete(header, ErrorHeader) // both are canonical, as is what net/http has read
	delete(header, ImportHeader)
	longest := 0
	for name, values := range header {
		longest = max(longest, len(name))
		for _, value := range values {
			longest = max(longest, len(value))
		}
	}
	for _, hidden := range a.values {
		value := hidden.Reveal()
		if len(value) > longest { // it stands in none of them, in whichever form
			continue
		}
		for _, form := range forms(value) {
			scrub(header, form)
		}
	}
}

// A scrubbedBody scrubs the trailers that have come when it has been read.
type scrubbedBody struct {
	io.ReadCloser
	auth *Authorization
	resp *http.Response
}

// Read implements [io.Reader].
func (b *scrubbedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.auth.Scrub(b.resp.Trailer)
	}
	return n, err
}

// rejected parks a connection whose token downstream refused and that has no way to
// another one.
func (a *Authorization) rejected() {
	r := a.refresher
	snap := r.snap.Load()
	if snap == nil || snap.rec.Generation != a.generation || snap.rec.Credentials == nil ||
		a.conn.AuthType != connector.OAuth2 || a.conn.CanRefresh(snap.rec.Credentials) || snap.rec.IsParked() {
		return
	}
	r.rejectInBackground(a.conn, a.generation)
}

// injectedHeaders returns the names of the headers that credentials are put in.
func injectedHeaders(c *record.Connector) []string {
	var names []string
	for _, p := range c.Placements() {
		name := "Authorization"
		switch p.Kind {
		case connector.InQuery:
			continue
		case connector.InCookie:
			name = "Cookie"
		case connector.InHeader:
			name = textproto.CanonicalMIMEHeaderKey(p.Name)
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
