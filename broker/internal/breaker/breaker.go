// Package breaker has circuit breakers for token endpoints: it decides that a connector, an
// endpoint or a connection is paused, and which request may probe whether that is over.
package breaker

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// Fingerprint identifies the client of a connector, and how it asks for tokens.
func Fingerprint(c *record.Connector) secret.Hash {
	return secret.New(fmt.Sprintf("%q", clientSettingsOf(c, subject{connector: c.ID}, nil))).Hash()
}

// ProbeInterval is how often a connector whose client the token endpoint refuses is
// tried again, with one connection.
const ProbeInterval = 5 * time.Minute

// Set knows the connectors whose OAuth client is configured wrongly, and the
// connections whose own settings are what a token endpoint refuses. That is no fault of
// the other connections and costs none its credentials.
type Set struct {
	mu   sync.Mutex           // guards what is below
	open map[subject]*breaker // nil until there is one
}

// A subject is what a pause is about.
type subject struct {
	connector  connector.ID
	endpoint   string     // a token endpoint that settings decide; empty: the connector's
	connection record.Key // zero: every connection of the connector, or of that endpoint
}

type breaker struct {
	client clientSettings // as they were; others are worth a try at once
	until  time.Time
}

// clientSettings are what a token endpoint's opinion of the client depends on.
type clientSettings struct {
	tokenURL, refreshURL string
	authStyle            connector.AuthStyle
	body                 connector.TokenBody
	clientID             string
	secret               secret.Hash
	more                 secret.Hash // of the parameters, and for a single connection of its settings
}

// scopes are what a refusal of the record's token request may be about: the connector
// first, then the connection alone, whose settings may be what is refused. One that has
// a client of its own has nothing to do with the connector's.
func subjects(c *record.Connector, rec *record.Record) []subject {
	wide, narrow := subject{connector: c.ID, endpoint: EndpointOf(c, rec)}, subject{connector: c.ID, connection: rec.Key}
	if _, own := c.ClientFor(rec.Settings); own {
		return []subject{narrow}
	}
	if c.VariesTokenRequests() {
		return []subject{wide, narrow}
	}
	return []subject{wide}
}

// EndpointOf returns the token endpoint of the record's tenant, empty if all connections
// have the same. What one tenant's endpoint thinks of the client says nothing of others: it
// may be in another region, or belong to a customer who has removed the integration.
func EndpointOf(c *record.Connector, rec *record.Record) string {
	if !strings.Contains(c.TokenURL+c.RefreshURL, "{") {
		return ""
	}
	endpoint, err := c.TokenEndpoint(rec)
	if err != nil {
		return "" // a setting is missing, and so there will be no request
	}
	return endpoint
}

// SharesTokenRequests reports whether the record's token requests differ from those of
// other connections in the refresh token alone.
func SharesTokenRequests(c *record.Connector, rec *record.Record) bool {
	scopes := subjects(c, rec)
	return len(scopes) == 1 && scopes[0].connection == (record.Key{})
}

func clientSettingsOf(c *record.Connector, scope subject, rec *record.Record) clientSettings {
	client, more := c.Client, strings.Builder{}
	for _, name := range slices.Sorted(maps.Keys(c.TokenParams)) {
		fmt.Fprintf(&more, "%q=%q ", name, c.TokenParams[name])
	}
	if scope.connection != (record.Key{}) {
		client, _ = c.ClientFor(rec.Settings)
		for _, name := range c.TokenSettings() {
			fmt.Fprintf(&more, "%q=%q ", name, fmt.Sprint(rec.Settings[name]))
		}
	}
	return clientSettings{
		c.TokenURL, c.RefreshURL, c.AuthStyle, c.TokenBody, client.ID, client.Secret.Hash(), secret.New(more.String()).Hash(),
	}
}

// current returns the pauses that are about the record, if they are still: others are
// forgotten. The caller holds mu.
func (p *Set) current(conn *record.Connector, rec *record.Record) []*breaker {
	if len(p.open) == 0 {
		return nil
	}
	var found []*breaker
	for _, scope := range subjects(conn, rec) {
		paused, ok := p.open[scope]
		switch {
		case !ok:
		case paused.client != clientSettingsOf(conn, scope, rec):
			delete(p.open, scope)
		default:
			found = append(found, paused)
		}
	}
	return found
}

// lastToClose returns when all of the pauses are over, zero if they are.
func lastToClose(pauses []*breaker, now time.Time) time.Time {
	var until time.Time
	for _, paused := range pauses {
		if now.Before(paused.until) && paused.until.After(until) {
			until = paused.until
		}
	}
	return until
}

// OpenUntil returns when a token request for the record may be made again, zero if it may
// be now.
func (p *Set) OpenUntil(conn *record.Connector, rec *record.Record, now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return lastToClose(p.current(conn, rec), now)
}

// TryProbe is until, but of several callers that could try now after a pause only one
// gets zero: the others wait for what it finds.
func (p *Set) TryProbe(conn *record.Connector, rec *record.Record, now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := p.current(conn, rec)
	if until := lastToClose(found, now); !until.IsZero() {
		return until
	}
	for _, paused := range found {
		paused.until = now.Add(ProbeInterval)
	}
	return time.Time{}
}

// CancelProbe gives back what claim allowed, since nothing was tried.
func (p *Set) CancelProbe(conn *record.Connector, rec *record.Record, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, paused := range p.current(conn, rec) {
		paused.until = now
	}
}

// Trip stops for a while what the code of a refusal is about. It reports whether that
// was not paused yet, and whether it is about more than the one connection.
func (p *Set) Trip(conn *record.Connector, rec *record.Record, code string, until time.Time) (begun, wide bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	scopes := subjects(conn, rec)
	scope := scopes[len(scopes)-1]
	if record.IsClientError(code) {
		scope = scopes[0]
	}
	next := &breaker{clientSettingsOf(conn, scope, rec), until}
	old := p.open[scope]
	p.prune(until.Add(-ProbeInterval))
	if p.open == nil {
		p.open = make(map[subject]*breaker)
	}
	p.open[scope] = next
	return old == nil || old.client != next.client, scope.connection == (record.Key{})
}

// maxBreakers is from how many on those of single connections, and tenants, are thrown
// away again: nobody may ever ask for them any more.
const maxBreakers = 1024

// prune forgets pauses of single connections and tenants that have been over for a while. The
// caller holds mu.
func (p *Set) prune(now time.Time) {
	if len(p.open) < maxBreakers {
		return
	}
	maps.DeleteFunc(p.open, func(scope subject, paused *breaker) bool {
		return (scope.connection != (record.Key{}) || scope.endpoint != "") && now.Sub(paused.until) > ProbeInterval
	})
}

// Reset ends the pauses: the token endpoint has accepted the request.
func (p *Set) Reset(conn *record.Connector, rec *record.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.open) == 0 {
		return
	}
	for _, scope := range subjects(conn, rec) {
		delete(p.open, scope)
	}
}

// enoughRefusals is how many connections in a row a token endpoint has to refuse, for what
// may be their own reasons, until that is taken for the connector's.
const enoughRefusals = 3

// Suspicions knows the connections that a token endpoint has refused without saying that it
// is for the client, since it last took one of the connector's. A malformed refresh
// token, or a customer whose account is closed, gets an invalid_request here and a bare
// 403 there, just as a wrong token_url does. One such connection must not keep a
// thousand others waiting.
type Suspicions struct {
	mu      sync.Mutex // guards refused
	refused map[connector.ID][]record.Key
}

// IsOwnFault notes a refusal with a code, and reports whether it is taken to IsOwnFault the
// connection alone.
func (d *Suspicions) IsOwnFault(key record.Key, code string) bool {
	if record.IsClientError(code) {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	refused := d.refused[key.Connector]
	if len(refused) < enoughRefusals && !slices.Contains(refused, key) {
		if d.refused == nil {
			d.refused = make(map[connector.ID][]record.Key)
		}
		refused = append(refused, key)
		d.refused[key.Connector] = refused
	}
	return len(refused) < enoughRefusals
}

// Clear is called when the token endpoint has taken a connection's refresh token.
func (d *Suspicions) Clear(key record.Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.refused, key.Connector)
}

// Locker returns the set's mutex, for a test that holds everything that a refresh locks.
func (p *Set) Locker() sync.Locker { return &p.mu }

// Locker returns the mutex, as that of a [Set].
func (d *Suspicions) Locker() sync.Locker { return &d.mu }
