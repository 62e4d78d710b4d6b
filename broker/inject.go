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
	"strings"

	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// ErrorHeader is set on responses that the broker made itself; on responses of
// downstream it is removed, so that they cannot pass for such.
const ErrorHeader = "X-Token-Broker-Error"

// ImportHeader says what an import did to the credentials, see [ImportOutcome]. It too
// is removed from responses of downstream.
const ImportHeader = "X-Token-Broker-Import"

// An Authorization is a credential that was put into a request.
type Authorization struct {
	refresher  *refresher
	conn       *Connector
	generation uint64
	values     []Secret // as they were sent
}

// Authorize puts the connection's credential into req, a request to downstream that
// is the caller's own to change. Whatever stands where the credential goes is
// replaced; no other header is touched.
//
// Before a token is fetched the request's host is checked. Errors: [ErrHostNotAllowed],
// [ErrConnectorNotFound], [ErrConnectionNotFound], [ErrConnectionDisabled],
// [*TokenError], [*InputError], [ErrStoreUnavailable], the request context's.
func (b *Broker) Authorize(req *http.Request, key Key) (_ *Authorization, err error) {
	ctx, span := b.tracing.start(req.Context(), "token_broker.inject", trace.WithAttributes(connectorAttribute(key)))
	defer func() { endSpan(span, err) }()
	conn, err := b.Config().connector(key)
	if err != nil {
		return nil, err
	}
	r := b.refresher(key)
	snap, err := r.latest(ctx)
	if err != nil {
		return nil, err
	}
	if err := conn.allows(b.Config(), req.URL, snap.rec.Settings); err != nil {
		return nil, err
	}
	if snap, err = r.current(ctx, conn); err != nil {
		return nil, err
	}
	auth := &Authorization{refresher: r, conn: conn, generation: snap.rec.Generation}
	injections, err := conn.injections(snap.rec)
	if err != nil {
		return nil, err
	}
	for _, i := range injections {
		auth.place(req, i)
	}
	return auth, nil
}

// allows reports whether a credential may be sent to u.
func (c *Connector) allows(cfg *Config, u *url.URL, settings map[string]any) error {
	def := &c.Definition
	if cfg.allowsPrivate(c) != def.AllowPrivate {
		private := c.Definition
		private.AllowPrivate = true
		def = &private
	}
	if err := def.AllowsHost(u.Scheme, u.Host, settings); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrHostNotAllowed, c.ID, err)
	}
	return nil
}

// injections returns what goes into the requests of a connection. Its error is a
// [*TokenError] of credentials that cannot be put where they belong.
func (c *Connector) injections(rec *Record) ([]connector.Injection, error) {
	token := ""
	if rec.Credentials != nil {
		token = rec.Credentials.AccessToken.Reveal()
	}
	injections, err := c.Injections(rec.Settings, token)
	if err == nil {
		return injections, nil
	}
	failure := &TokenError{Key: rec.Key, Class: ClassConfiguration, Code: codeUnfitValue, Unfit: true, Err: err}
	if fault, ok := errors.AsType[*connector.SettingError](err); ok && fault.IsMissing() || errors.Is(err, connector.ErrNoAccessToken) {
		failure.Code = codeMissingSettings
	}
	return nil, failure
}

// place puts one credential into req.
func (a *Authorization) place(req *http.Request, i connector.Injection) {
	switch i.Kind {
	case connector.InQuery:
		setQuery(req.URL, i.Name, i.Value)
	case connector.InCookie:
		setCookie(req, i.Name, i.Value)
	default:
		setHeader(req, i.Name, i.Value)
	}
	for _, secret := range i.Secrets {
		a.sent(secret)
	}
}

// sent notes a value that responses are not to show, in the forms that it may have there.
func (a *Authorization) sent(value string) {
	forms := []string{value, url.QueryEscape(value), url.PathEscape(value), base64.StdEncoding.EncodeToString([]byte(value))}
	for i, form := range forms {
		if !slices.Contains(forms[:i], form) {
			a.values = append(a.values, NewSecret(form))
		}
	}
}

// setHeader sets a header and removes it in any other spelling of its name.
func setHeader(req *http.Request, name, value string) {
	for other := range req.Header {
		if strings.EqualFold(other, name) {
			delete(req.Header, other)
		}
	}
	req.Header[textproto.CanonicalMIMEHeaderKey(name)] = []string{value}
}

// setCookie sets a cookie, and removes those of its name that stand there in whatever
// header; others stay (RFC 6265 section 5.4).
func setCookie(req *http.Request, name, value string) {
	var kept []string
	for other, lines := range req.Header {
		if !strings.EqualFold(other, "Cookie") {
			continue
		}
		for pair := range strings.SplitSeq(strings.Join(lines, ";"), ";") {
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

// Observe is called with downstream's response: it takes note of a 401, and removes
// from the headers what only the broker may say and what the caller may not see.
// Trailers come after the body: it is read through one that does the same at its end.
// That of a switch of protocols stays what it is, a connection.
func (a *Authorization) Observe(resp *http.Response) {
	a.Scrub(resp.Header)
	if resp.Body != nil && resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body = &scrubbedBody{ReadCloser: resp.Body, auth: a, resp: resp}
	}
	if resp.StatusCode == http.StatusUnauthorized {
		a.rejected()
	} else {
		a.refresher.accepted(a.generation)
	}
}

// Scrub removes from a header of downstream what only the broker may say and what the
// caller may not see. [Authorization.Observe] does it for a response; this is for those
// before it (1xx).
func (a *Authorization) Scrub(header http.Header) {
	header.Del(ErrorHeader)
	header.Del(ImportHeader)
	for _, secret := range a.values {
		scrub(header, secret.Reveal())
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
		a.conn.AuthType != connector.OAuth2 || a.conn.canRefresh(snap.rec.Credentials) || snap.rec.IsParked() {
		return
	}
	r.rejectInBackground(a.conn, a.generation)
}

// scrub replaces secret wherever it stands in header values.
func scrub(header http.Header, secret string) {
	const shortest = 4 // below that it is no secret, and replacing it would garble
	if len(secret) < shortest {
		return
	}
	for name, values := range header {
		for i, value := range values {
			if strings.Contains(value, secret) {
				values[i] = strings.ReplaceAll(value, secret, redacted)
			}
		}
		header[name] = values
	}
}

// injectedHeaders returns the names of the headers that credentials are put in.
func (c *Connector) injectedHeaders() []string {
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
