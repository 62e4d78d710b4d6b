package broker

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

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
	b := a.refresher.broker
	b.refusals.breakers.reset(a.conn, held.rec)
	if _, own := a.conn.ClientFor(held.rec.Settings); !own {
		b.refusals.suspicions.clear(a.refresher.key)
		b.endAnnouncement(ctx, a.conn, held.rec)
	}
}

// clientKnown is called when the token endpoint has refused a grant for good, which it
// says to a client that it knows: the next connection may try at once.
func (a *attempt) clientKnown(held *heldLease, now time.Time) {
	b := a.refresher.broker
	b.refusals.breakers.cancelProbe(a.conn, held.rec, now)
	if _, own := a.conn.ClientFor(held.rec.Settings); !own {
		b.refusals.suspicions.clear(a.refresher.key)
	}
}
