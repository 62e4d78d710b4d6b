package broker

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/engine"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/inject"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tracing"
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
// Authorization of req instead of the connection's credential. If it is zero, req is sent
// without a credential, as to a URL that is signed. The host is checked as in
// [Broker.Authorize], and responses are scrubbed of the credential. A 401 is for the caller
// to handle: nothing is renewed. Errors: those of [Broker.Authorize] except
// [*record.TokenError].
func (b *Broker) AuthorizeWith(req *http.Request, key record.Key, authorization secret.String) (_ *Authorization, err error) {
	ctx, span := b.engine.StartSpan(req.Context(), "token_broker.inject", trace.WithAttributes(tracing.ConnectorAttribute(key)))
	defer func() { tracing.EndSpan(span, err) }()
	spellHost(req)
	cfg := b.Config()
	conn, err := cfg.ConnectorOf(key)
	if err != nil {
		return nil, err
	}
	r := b.engine.Refresher(key)
	snap, err := r.Latest(ctx)
	if err != nil {
		return nil, err
	}
	if !snap.Record.Enabled {
		return nil, record.ErrConnectionDisabled
	}
	if err := snap.Allows(cfg, conn, req.URL); err != nil {
		return nil, err
	}
	auth := &Authorization{refresher: r, conn: conn, credential: inject.Supplied(authorization), callerSupplied: true}
	setHeaders(req, &conn.Definition)
	auth.credential.Put(req)
	return auth, nil
}

// ErrorHeader marks responses of the broker itself. It is removed from responses of
// downstream, which could otherwise pass for the broker's.
const ErrorHeader = "X-Token-Broker-Error"

// ImportHeader tells what an import did to the credentials, see [record.ImportOutcome]. It
// is removed from responses of downstream as well.
const ImportHeader = "X-Token-Broker-Import"

// WarningHeader says what is probably wrong with an import that was accepted, see
// [record.Import.Warning]. It too is removed from responses of downstream.
const WarningHeader = "X-Token-Broker-Warning"

// An Authorization is a credential that was put into a request.
type Authorization struct {
	refresher      *engine.Refresher
	conn           *record.Connector
	generation     uint64
	credential     *inject.Credential
	callerSupplied bool // the credential is the caller's, see [Broker.AuthorizeWith]
	expired        bool // the response says that the token has expired
}

// Authorize puts the connection's credential into req, a request to downstream that it
// may change. A value where the credential goes is replaced; other headers stay as they
// are. The host gets its canonical spelling, in the URL and as Host. It is the API for embedders that enforce no [record.Limits]; with limits, call
// [Admission.Authorize].
//
// The host of the request is checked before a token is obtained. Errors:
// [record.ErrHostNotAllowed], [record.ErrConnectorNotFound], [record.ErrConnectionNotFound],
// [record.ErrConnectionDisabled], [*record.TokenError], [*record.InputError],
// [record.ErrStoreUnavailable], the request context's.
func (b *Broker) Authorize(req *http.Request, key record.Key) (*Authorization, error) {
	if err := key.Validate(); err != nil {
		return nil, err
	}
	unlimited := &Admission{broker: b, refresher: b.engine.Refresher(key), traced: tracing.IsTraced(req.Context())}
	return unlimited.authorize(req, false)
}

// Authorize is [Broker.Authorize] for the admitted connection.
func (a *Admission) Authorize(req *http.Request) (*Authorization, error) {
	return a.authorize(req, false)
}

// AuthorizeNamed is [Admission.Authorize] for a request whose Host header the caller may
// have influenced. The connector must allow that host, too: servers choose their tenant by it.
func (a *Admission) AuthorizeNamed(req *http.Request) (*Authorization, error) {
	return a.authorize(req, true)
}

// authorize is Authorize or, if named, AuthorizeNamed.
func (a *Admission) authorize(req *http.Request, named bool) (_ *Authorization, err error) {
	ctx := req.Context()
	spellHost(req)
	if a.traced {
		var span trace.Span
		ctx, span = a.broker.engine.StartSpan(ctx, "token_broker.inject", trace.WithAttributes(tracing.ConnectorAttribute(a.Key())))
		defer func() { tracing.EndSpan(span, err) }()
	}
	cfg, conn := a.broker.Config(), a.conn
	if cfg != a.config {
		if conn, err = cfg.Configured(a.refresher.Key.Connector); err != nil {
			return nil, err
		}
	}
	snap, err := a.refresher.UsableAt(ctx, cfg, conn, req.URL)
	if err != nil {
		return nil, err
	}
	if named {
		if err := checkHostHeader(req, cfg, conn, snap.Record.Settings); err != nil {
			return nil, err
		}
	}
	credential, err := snap.Credential(conn)
	if err != nil {
		return nil, err
	}
	setHeaders(req, &conn.Definition)
	credential.Put(req)
	auth := &a.first
	if a.used.Swap(true) {
		auth = new(Authorization)
	}
	auth.refresher, auth.conn, auth.generation, auth.credential = a.refresher, conn, snap.Record.Generation, credential
	return auth, nil
}

// HandleResponse records that the token has expired, see [Authorization.Expired], and removes
// credential values and headers that only the broker may set. Trailers are scrubbed when the
// body has been read, which is therefore wrapped. The body of a 101 response is a connection
// and is left alone.
func (a *Authorization) HandleResponse(resp *http.Response) {
	a.expired = a.saysExpired(resp)
	a.Scrub(resp.Header)
	if resp.Trailer != nil {
		a.Scrub(resp.Trailer) // the announced names; the values come at the end
	}
	if phrase := http.StatusText(resp.StatusCode); !strings.HasSuffix(resp.Status, phrase) || len(resp.Status) != len("200 ")+len(phrase) {
		resp.Status = strconv.Itoa(resp.StatusCode) + " " + phrase // a configuration can pass the text on, so it must not echo the credential
	}
	if inject.MayHaveTrailers(resp) {
		inject.AfterBody(resp, func() { a.Scrub(resp.Trailer) })
	}
	switch {
	case a.callerSupplied:
	case resp.StatusCode == http.StatusUnauthorized:
		a.refresher.Rejected(a.conn, a.generation)
	case a.expired: // the connector says so; that does not park a connection that cannot be refreshed
	default:
		a.refresher.Accepted(a.generation)
	}
}

// Scrub removes credential values, and headers that only the broker may set, from a header
// of downstream. [Authorization.HandleResponse] calls it for the final response; call it
// for the 1xx responses before that.
func (a *Authorization) Scrub(header http.Header) {
	delete(header, ErrorHeader) // both names are canonical, as net/http's are
	delete(header, ImportHeader)
	delete(header, WarningHeader)
	a.credential.Scrub(header)
}

// Renew is called after a 401 of downstream. It reports whether a newer credential exists,
// so that sending the request again may help: either another request or process has
// refreshed the token, or Renew does, and waits for the result. If refreshes of a connection
// do not help, they are forced less and less often.
func (a *Authorization) Renew(ctx context.Context) bool {
	return !a.callerSupplied && a.refresher.Renew(ctx, a.conn, a.generation)
}

// RenewInBackground is [Authorization.Renew] for a request that cannot be sent again.
func (a *Authorization) RenewInBackground() {
	if !a.callerSupplied {
		a.refresher.RenewLater(a.conn, a.generation)
	}
}

// Dead is called after a 401 of downstream, if [Authorization.Renew] does not help. It returns a
// [*record.TokenError] if the connection is parked or its token cannot be refreshed: the token
// was the last one, and is not sent again. Otherwise it returns nil.
func (a *Authorization) Dead(ctx context.Context) error {
	if a.callerSupplied {
		return nil
	}
	return a.refresher.RejectLast(ctx, a.conn, a.generation)
}

// WithoutCredential returns the query of a URL in a scrubbed response without the parameters
// that carried the credential.
func (a *Authorization) WithoutCredential(query string) string {
	return a.credential.WithoutParameters(query)
}
