// Package breaker has circuit breakers for token endpoints. An open breaker pauses token
// requests of a connector, of a tenant's endpoint or of one connection, until a probe
// succeeds.
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

// Fingerprint identifies a connector's client and how it requests tokens.
func Fingerprint(c *record.Connector) secret.Hash {
	return secret.New(fmt.Sprintf("%q", clientSettingsOf(c, subject{connector: c.ID}, nil))).Hash()
}

// ProbeInterval is how often a refused client is tried again, with one connection.
const ProbeInterval = 5 * time.Minute

// A Set holds the breakers that are open: those of connectors whose OAuth client is refused,
// and those of connections whose own settings are refused. A connection behind an open
// breaker is not at fault and keeps its credentials. The zero Set is ready for use.
type Set struct {
	mu   sync.Mutex
	open map[subject]*breaker // guarded by mu; nil until the first one opens
}

// A subject is the part of the configuration or the connection that a breaker pauses.
type subject struct {
	connector  connector.ID
	endpoint   string     // of a tenant, if it depends on settings; empty: the connector's
	connection record.Key // zero: every connection of the connector, or of the endpoint
}

// isShared reports whether the subject covers more than one connection.
func (s *subject) isShared() bool { return s.connection == (record.Key{}) }

// A breaker is open while token requests of its subject are paused.
type breaker struct {
	client clientSettings // at the time of the refusal; a changed client is tried at once
	until  time.Time      // then one request may probe
}

// clientSettings is everything that decides whether a token endpoint accepts the client.
type clientSettings struct {
	tokenURL, refreshURL string
	authStyle            connector.AuthStyle
	body                 connector.TokenBody
	clientID             string
	secret               secret.Hash
	more                 secret.Hash // of the parameters; for a single connection also of its settings
}

// subjects returns what a refusal of the record's token request may concern: the shared
// subject first, which is the connector or the tenant's endpoint, then the connection alone
// if its token requests contain settings. A connection with its own client does not use the
// connector's, and has only the latter.
func subjects(c *record.Connector, rec *record.Record) []subject {
	shared, single := subject{connector: c.ID, endpoint: EndpointOf(c, rec)}, subject{connector: c.ID, connection: rec.Key}
	if _, own := c.ClientFor(rec.Settings); own {
		return []subject{single}
	}
	if c.VariesTokenRequests() {
		return []subject{shared, single}
	}
	return []subject{shared}
}

// EndpointOf returns the token endpoint of the record's tenant, empty if all connections have
// the same. That one tenant's endpoint refuses the client says nothing about another's: it
// may be in another region, or belong to a customer who has removed the integration.
func EndpointOf(c *record.Connector, rec *record.Record) string {
	if !strings.Contains(c.TokenURL+c.RefreshURL, "{") {
		return ""
	}
	endpoint, err := c.TokenEndpoint(rec)
	if err != nil {
		return "" // a setting is missing, so no request will be sent
	}
	return endpoint
}

// SharesTokenRequests reports whether the record's token requests differ from those of other
// connections only in the refresh token.
func SharesTokenRequests(c *record.Connector, rec *record.Record) bool {
	found := subjects(c, rec)
	return len(found) == 1 && found[0].isShared()
}

// clientSettingsOf returns the client settings for requests of a subject. rec may be nil if
// the subject is shared.
func clientSettingsOf(c *record.Connector, subj subject, rec *record.Record) clientSettings {
	client, more := c.Client, strings.Builder{}
	for _, name := range slices.Sorted(maps.Keys(c.TokenParams)) {
		fmt.Fprintf(&more, "%q=%q ", name, c.TokenParams[name])
	}
	if !subj.isShared() {
		client, _ = c.ClientFor(rec.Settings)
		for _, name := range c.TokenSettings() {
			fmt.Fprintf(&more, "%q=%q ", name, fmt.Sprint(rec.Settings[name]))
		}
	}
	return clientSettings{
		c.TokenURL, c.RefreshURL, c.AuthStyle, c.TokenBody, client.ID, client.Secret.Hash(), secret.New(more.String()).Hash(),
	}
}

// current returns the open breakers that cover the record, and drops those whose client has
// changed since. The caller holds mu.
func (s *Set) current(conn *record.Connector, rec *record.Record) []*breaker {
	if len(s.open) == 0 {
		return nil
	}
	var found []*breaker
	for _, subj := range subjects(conn, rec) {
		b, ok := s.open[subj]
		switch {
		case !ok:
		case b.client != clientSettingsOf(conn, subj, rec):
			delete(s.open, subj)
		default:
			found = append(found, b)
		}
	}
	return found
}

// lastToClose returns when the last of the breakers allows a probe, zero if all do now.
func lastToClose(breakers []*breaker, now time.Time) time.Time {
	var until time.Time
	for _, b := range breakers {
		if now.Before(b.until) && b.until.After(until) {
			until = b.until
		}
	}
	return until
}

// OpenUntil returns when the next token request for the record may be sent, zero if one may
// be sent now.
func (s *Set) OpenUntil(conn *record.Connector, rec *record.Record, now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return lastToClose(s.current(conn, rec), now)
}

// TryProbe is [Set.OpenUntil] for a caller that is about to send a request. After a pause it
// returns zero to one caller only, which probes; the others wait for the outcome.
func (s *Set) TryProbe(conn *record.Connector, rec *record.Record, now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.current(conn, rec)
	if until := lastToClose(found, now); !until.IsZero() {
		return until
	}
	for _, b := range found {
		b.until = now.Add(ProbeInterval)
	}
	return time.Time{}
}

// CancelProbe lets another request probe at once, since the outcome of this one does not
// decide whether the pause is over.
func (s *Set) CancelProbe(conn *record.Connector, rec *record.Record, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.current(conn, rec) {
		b.until = now
	}
}

// Trip opens the breaker of the subject that a refusal with this code concerns, until then.
// It reports whether the pause begins with it, and whether it covers more than the one
// connection.
func (s *Set) Trip(conn *record.Connector, rec *record.Record, code string, until time.Time) (begun, shared bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	possible := subjects(conn, rec)
	subj := possible[len(possible)-1]
	if record.IsClientError(code) {
		subj = possible[0]
	}
	next := &breaker{clientSettingsOf(conn, subj, rec), until}
	old := s.open[subj]
	s.prune(until.Add(-ProbeInterval))
	if s.open == nil {
		s.open = make(map[subject]*breaker)
	}
	s.open[subj] = next
	return old == nil || old.client != next.client, subj.isShared()
}

// maxBreakers is how many breakers are kept before stale ones of single connections and
// tenants are pruned: their connections may be gone.
const maxBreakers = 1024

// prune drops breakers of single connections and tenants whose pause ended more than a
// ProbeInterval ago. The caller holds mu.
func (s *Set) prune(now time.Time) {
	if len(s.open) < maxBreakers {
		return
	}
	maps.DeleteFunc(s.open, func(subj subject, b *breaker) bool {
		return (!subj.isShared() || subj.endpoint != "") && now.Sub(b.until) > ProbeInterval
	})
}

// Reset closes the breakers that cover the record: the token endpoint has accepted a request.
func (s *Set) Reset(conn *record.Connector, rec *record.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) == 0 {
		return
	}
	for _, subj := range subjects(conn, rec) {
		delete(s.open, subj)
	}
}

// enoughRefusals is how many connections a token endpoint must refuse in a row, for reasons
// that may be their own, before the connector is taken to be at fault.
const enoughRefusals = 3

// Suspicions records, for each connector, the connections whose token request was refused
// with an ambiguous code since the last one was accepted. A malformed refresh token or a
// closed account gets an invalid_request here and a bare 403 there, just as a wrong token_url
// does. One such connection must not pause a thousand others. The zero Suspicions is ready
// for use.
type Suspicions struct {
	mu      sync.Mutex
	refused map[connector.ID][]record.Key // guarded by mu; at most enoughRefusals each
}

// Note records a refusal with this code, and reports whether it is taken for the fault of
// this connection alone.
func (s *Suspicions) Note(key record.Key, code string) (ownFault bool) {
	if record.IsClientError(code) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	refused := s.refused[key.Connector]
	if len(refused) < enoughRefusals && !slices.Contains(refused, key) {
		if s.refused == nil {
			s.refused = make(map[connector.ID][]record.Key)
		}
		refused = append(refused, key)
		s.refused[key.Connector] = refused
	}
	return len(refused) < enoughRefusals
}

// Clear forgets the refusals at key's connector: the token endpoint has accepted its client.
func (s *Suspicions) Clear(key record.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.refused, key.Connector)
}

// Locker returns the set's mutex, for a test that holds every lock that a refresh takes.
func (s *Set) Locker() sync.Locker { return &s.mu }

// Locker returns the mutex, for the same test as [Set.Locker].
func (s *Suspicions) Locker() sync.Locker { return &s.mu }
