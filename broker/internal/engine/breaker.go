package engine

import (
	"context"
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

// probeInterval is how often a connector whose client the token endpoint refuses is
// tried again, with one connection.
const probeInterval = 5 * time.Minute

// breakers knows the connectors whose OAuth client is configured wrongly, and the
// connections whose own settings are what a token endpoint refuses. That is no fault of
// the other connections and costs none its credentials.
type breakers struct {
	mu   sync.Mutex                // guards what is below
	open map[breakerScope]*breaker // nil until there is one
}

// A breakerScope is what a pause is about.
type breakerScope struct {
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
func breakerScopes(c *record.Connector, rec *record.Record) []breakerScope {
	wide, narrow := breakerScope{connector: c.ID, endpoint: endpointOf(c, rec)}, breakerScope{connector: c.ID, connection: rec.Key}
	if _, own := c.ClientFor(rec.Settings); own {
		return []breakerScope{narrow}
	}
	if c.VariesTokenRequests() {
		return []breakerScope{wide, narrow}
	}
	return []breakerScope{wide}
}

// endpointOf returns the token endpoint of the record's tenant, empty if all connections
// have the same. What one tenant's endpoint thinks of the client says nothing of others: it
// may be in another region, or belong to a customer who has removed the integration.
func endpointOf(c *record.Connector, rec *record.Record) string {
	if !strings.Contains(c.TokenURL+c.RefreshURL, "{") {
		return ""
	}
	endpoint, err := c.TokenEndpoint(rec)
	if err != nil {
		return "" // a setting is missing, and so there will be no request
	}
	return endpoint
}

// sharesTokenRequests reports whether the record's token requests differ from those of
// other connections in the refresh token alone.
func sharesTokenRequests(c *record.Connector, rec *record.Record) bool {
	scopes := breakerScopes(c, rec)
	return len(scopes) == 1 && scopes[0].connection == (record.Key{})
}

func clientSettingsOf(c *record.Connector, scope breakerScope, rec *record.Record) clientSettings {
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
func (p *breakers) current(conn *record.Connector, rec *record.Record) []*breaker {
	if len(p.open) == 0 {
		return nil
	}
	var found []*breaker
	for _, scope := range breakerScopes(conn, rec) {
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

// openUntil returns when a token request for the record may be made again, zero if it may
// be now.
func (p *breakers) openUntil(conn *record.Connector, rec *record.Record, now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return lastToClose(p.current(conn, rec), now)
}

// tryProbe is until, but of several callers that could try now after a pause only one
// gets zero: the others wait for what it finds.
func (p *breakers) tryProbe(conn *record.Connector, rec *record.Record, now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := p.current(conn, rec)
	if until := lastToClose(found, now); !until.IsZero() {
		return until
	}
	for _, paused := range found {
		paused.until = now.Add(probeInterval)
	}
	return time.Time{}
}

// cancelProbe gives back what claim allowed, since nothing was tried.
func (p *breakers) cancelProbe(conn *record.Connector, rec *record.Record, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, paused := range p.current(conn, rec) {
		paused.until = now
	}
}

// trip stops for a while what the code of a refusal is about. It reports whether that
// was not paused yet, and whether it is about more than the one connection.
func (p *breakers) trip(conn *record.Connector, rec *record.Record, code string, until time.Time) (begun, wide bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	scopes := breakerScopes(conn, rec)
	scope := scopes[len(scopes)-1]
	if record.IsClientError(code) {
		scope = scopes[0]
	}
	next := &breaker{clientSettingsOf(conn, scope, rec), until}
	old := p.open[scope]
	p.prune(until.Add(-probeInterval))
	if p.open == nil {
		p.open = make(map[breakerScope]*breaker)
	}
	p.open[scope] = next
	return old == nil || old.client != next.client, scope.connection == (record.Key{})
}

// maxBreakers is from how many on those of single connections, and tenants, are thrown
// away again: nobody may ever ask for them any more.
const maxBreakers = 1024

// prune forgets pauses of single connections and tenants that have been over for a while. The
// caller holds mu.
func (p *breakers) prune(now time.Time) {
	if len(p.open) < maxBreakers {
		return
	}
	maps.DeleteFunc(p.open, func(scope breakerScope, paused *breaker) bool {
		return (scope.connection != (record.Key{}) || scope.endpoint != "") && now.Sub(paused.until) > probeInterval
	})
}

// reset ends the pauses: the token endpoint has accepted the request.
func (p *breakers) reset(conn *record.Connector, rec *record.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.open) == 0 {
		return
	}
	for _, scope := range breakerScopes(conn, rec) {
		delete(p.open, scope)
	}
}

// enoughRefusals is how many connections in a row a token endpoint has to refuse, for what
// may be their own reasons, until that is taken for the connector's.
const enoughRefusals = 3

// suspicions knows the connections that a token endpoint has refused without saying that it
// is for the client, since it last took one of the connector's. A malformed refresh
// token, or a customer whose account is closed, gets an invalid_request here and a bare
// 403 there, just as a wrong token_url does. One such connection must not keep a
// thousand others waiting.
type suspicions struct {
	mu      sync.Mutex // guards refused
	refused map[connector.ID][]record.Key
}

// isOwnFault notes a refusal with a code, and reports whether it is taken to isOwnFault the
// connection alone.
func (d *suspicions) isOwnFault(key record.Key, code string) bool {
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

// clear is called when the token endpoint has taken a connection's refresh token.
func (d *suspicions) clear(key record.Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.refused, key.Connector)
}

// clientAccepted is called when the token endpoint has taken a token request. What it
// thinks of a connection's own client says nothing of the connector's.
func (a *attempt) clientAccepted(ctx context.Context, held *heldLease) {
	e := a.refresher.engine
	e.refusals.breakers.reset(a.conn, held.rec)
	if _, own := a.conn.ClientFor(held.rec.Settings); !own {
		e.refusals.suspicions.clear(a.refresher.Key)
		e.endAnnouncement(ctx, a.conn, held.rec)
	}
}

// clientKnown is called when the token endpoint has refused a grant for good, which it
// says to a client that it knows: the next connection may try at once.
func (a *attempt) clientKnown(held *heldLease, now time.Time) {
	e := a.refresher.engine
	e.refusals.breakers.cancelProbe(a.conn, held.rec, now)
	if _, own := a.conn.ClientFor(held.rec.Settings); !own {
		e.refusals.suspicions.clear(a.refresher.Key)
	}
}
