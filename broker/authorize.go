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

// InjectedHeaders returns the names of the headers that carry a connector's credentials,
// so that a caller can be kept from sending them.
func (b *Broker) InjectedHeaders(id connector.ID) []string {
	conn, ok := b.Config().Connectors[id]
	if !ok {
		return nil
	}
	return inject.Headers(&conn.Definition)
}

// AuthorizeWith puts authorization, the caller's own credential, into the header
// Authorization of req instead of the connection's credential. The host is checked as in
// [Broker.Authorize], and responses are scrubbed of the credential. A 401 is for the caller
// to handle: nothing is renewed. Errors: those of [Broker.Authorize] except
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

// ErrorHeader marks responses of the broker itself. It is removed from responses of
// downstream, which could otherwise pass for the broker's.
const ErrorHeader = "X-Token-Broker-Error"

// ImportHeader tells what an import did to the credentials, see [record.ImportOutcome]. It
// is removed from responses of downstream as well.
const ImportHeader = "X-Token-Broker-Import"

// An Authorization is a credential that was put into a request.
type Authorization struct {
	refresher      *refresher
	conn           *record.Connector
	generation     uint64
	credential     *inject.Credential
	callerSupplied bool // the credential is the caller's, see [Broker.AuthorizeWith]
}

// Authorize puts the connection's credential into req, a request to downstream that it
// may change. A value where the credential goes is replaced; other headers stay as they
// are. It is the API for embedders that enforce no [Limits]; with limits, call
// [Admission.Authorize].
//
// The host of the request is checked before a token is obtained. Errors:
// [ErrHostNotAllowed], [record.ErrConnectorNotFound], [record.ErrConnectionNotFound],
// [ErrConnectionDisabled], [*record.TokenError], [*record.InputError],
// [record.ErrStoreUnavailable], the request context's.
func (b *Broker) Authorize(req *http.Request, key record.Key) (*Authorization, error) {
	if err := key.Validate(); err != nil {
		return nil, err
	}
	return b.refresher(key).authorize(req, isTraced(req.Context()))
}

// Authorize is [Broker.Authorize] for the admitted connection.
func (a *Admission) Authorize(req *http.Request) (*Authorization, error) {
	return a.refresher.authorize(req, a.traced)
}

// authorize is Authorize for a refresher whose key is valid.
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
	if snap != checked { // its settings may differ, too
		if err := snap.allows(cfg, conn, req.URL); err != nil {
			return nil, err
		}
	}
	auth := &Authorization{refresher: r, conn: conn, generation: snap.rec.Generation}
	return auth, auth.put(req, snap)
}

// An allowance caches the last host check that a snapshot has passed.
type allowance struct {
	conn         *record.Connector // as configured at the time of the check
	private      bool
	scheme, host string
}

// allows returns nil if the snapshot's credential may be sent to u, otherwise
// [ErrHostNotAllowed]. Most requests of a connection go to one host, so the last allowed
// host is remembered.
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

// allowsHost returns nil if a credential may be sent to u, otherwise [ErrHostNotAllowed].
func allowsHost(cfg *Config, conn *record.Connector, u *url.URL, settings map[string]any) error {
	if err := cfg.definition(conn).AllowsHost(u.Scheme, u.Host, settings); err != nil {
		return fmt.Errorf("%w: %w", ErrHostNotAllowed, err) // err names the connector
	}
	return nil
}

// injectionsFor renders the injections for requests of a connection. Its error is a
// [*record.TokenError]: a setting or the token is missing, or cannot be put into a request.
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

// HandleResponse records a 401 of downstream, and removes credential values and headers
// that only the broker may set. Trailers are scrubbed when the body has been read, which
// is therefore wrapped. The body of a 101 response is a connection and is left alone.
func (a *Authorization) HandleResponse(resp *http.Response) {
	a.Scrub(resp.Header)
	a.Scrub(resp.Trailer) // the announced names; the values come at the end
	if phrase := http.StatusText(resp.StatusCode); !strings.HasSuffix(resp.Status, phrase) || len(resp.Status) != len("200 ")+len(phrase) {
		resp.Status = strconv.Itoa(resp.StatusCode) + " " + phrase // a configuration can pass the text on, so it must not echo the credential
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

// Scrub removes credential values, and headers that only the broker may set, from a header
// of downstream. [Authorization.HandleResponse] calls it for the final response; call it
// for the 1xx responses before that.
func (a *Authorization) Scrub(header http.Header) {
	delete(header, ErrorHeader) // both names are canonical, as net/http's are
	delete(header, ImportHeader)
	a.credential.Scrub(header)
}

// rejected parks a connection whose token downstream refused and that cannot obtain
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

// maxPrepared is the size in bytes up to which a rendered credential is kept. It costs
// memory until the connection is idle.
const maxPrepared = 1 << 10

// A preparedCredential is the rendered credential of a snapshot. The next request can use
// it unless the connector was reconfigured.
type preparedCredential struct {
	conn       *record.Connector // as configured when it was rendered
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
