package broker

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/inject"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// InjectedHeaders returns the names of the headers that a connector's credentials
// are put in, so that a caller's own can be kept from passing for them.
func (b *Broker) InjectedHeaders(id connector.ID) []string {
	conn, ok := b.Config().Connectors[id]
	if !ok {
		return nil
	}
	return inject.Headers(&conn.Definition)
}

// AuthorizeWith puts authorization, a credential that the caller has of its own, into
// the header Authorization of req in place of the connection's credential. Where it may
// go is checked as with [Broker.Authorize], and responses are scrubbed of it. A 401 is
// the caller's affair: nothing is renewed. Errors: those of [Broker.Authorize] but
// [*record.TokenError].
func (b *Broker) AuthorizeWith(req *http.Request, key record.Key, authorization secret.String) (_ *Authorization, err error) {
	ctx, span := b.tracing.start(req.Context(), "token_broker.inject", trace.WithAttributes(connectorAttribute(key)))
	defer func() { endSpan(span, err) }()
	cfg := b.Config()
	conn, err := cfg.connector(key)
	if err != nil {
		return nil, err
	}
	r := b.refresher(key)
	snap, err := r.latest(ctx)
	if err != nil {
		return nil, err
	}
	if !snap.rec.Enabled {
		return nil, ErrConnectionDisabled
	}
	if err := snap.allows(cfg, conn, req.URL); err != nil {
		return nil, err
	}
	auth := &Authorization{refresher: r, conn: conn, credential: inject.Supplied(authorization), callerSupplied: true}
	auth.credential.Put(req)
	return auth, nil
}

// ErrorHeader is set on responses that the broker made itself; on responses of
// downstream it is removed, so that they cannot pass for such.
const ErrorHeader = "X-Token-Broker-Error"

// ImportHeader says what an import did to the credentials, see [record.ImportOutcome]. It too
// is removed from responses of downstream.
const ImportHeader = "X-Token-Broker-Import"

// An Authorization is a credential that was put into a request.
type Authorization struct {
	refresher      *refresher
	conn           *record.Connector
	generation     uint64
	credential     *inject.Credential
	callerSupplied bool // not one of the connection's, see [Broker.AuthorizeWith]
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
	return auth, auth.put(req, snap)
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
	inject.AfterBody(resp, func() { a.Scrub(resp.Trailer) })
	switch {
	case a.callerSupplied:
	case resp.StatusCode == http.StatusUnauthorized:
		a.rejected()
	default:
		a.refresher.accepted(a.generation)
	}
}

// Scrub removes from a header of downstream what only the broker may say and what the
// caller may not see. [Authorization.HandleResponse] does it for a response; this is for
// those before it (1xx).
func (a *Authorization) Scrub(header http.Header) {
	delete(header, ErrorHeader) // both are canonical, as is what net/http has read
	delete(header, ImportHeader)
	a.credential.Scrub(header)
}

// rejected parks a connection whose token downstream refused and that has no way to
// another one.
func (a *Authorization) rejected() {
	r := a.refresher
	snap := r.memory.snap.Load()
	if snap == nil || snap.rec.Generation != a.generation || snap.rec.Credentials == nil ||
		a.conn.AuthType != connector.OAuth2 || a.conn.CanRefresh(snap.rec.Credentials) || snap.rec.IsParked() {
		return
	}
	r.rejectLater(a.conn, a.generation)
}

// maxPrepared bounds what is kept of a snapshot's rendered credential, in bytes. A
// connection in use costs memory until it is idle.
const maxPrepared = 1 << 10

// A preparedCredential is the rendered credential of a snapshot, for the next request. It
// is the same as long as neither the connection nor its connector changes.
type preparedCredential struct {
	conn       *record.Connector // as it was configured then
	credential *inject.Credential
}

// put puts the snapshot's credential into req.
func (a *Authorization) put(req *http.Request, snap *snapshot) error {
	if known := snap.prepared.Load(); known != nil && known.conn == a.conn {
		a.credential = known.credential
	} else {
		injections, err := injectionsFor(a.conn, snap.rec)
		if err != nil {
			return err
		}
		a.credential = inject.Prepare(injections)
		if a.credential.Size() <= maxPrepared {
			snap.prepared.Store(&preparedCredential{a.conn, a.credential})
		}
	}
	a.credential.Put(req)
	return nil
}
