package broker

import (
	"slices"
	"sync"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// enoughDoubt is how many connections in a row a token endpoint has to refuse, for what
// may be their own reasons, until that is taken for the connector's.
const enoughDoubt = 3

// doubts knows the connections that a token endpoint has refused without saying that it
// is for the client, since it last took one of the connector's. A malformed refresh
// token, or a customer whose account is closed, gets an invalid_request here and a bare
// 403 there, just as a wrong token_url does. One such connection must not keep a
// thousand others waiting.
type doubts struct {
	mu      sync.Mutex // guards refused
	refused map[connector.ID][]Key
}

// concern notes a refusal with a code, and reports whether it is taken to concern the
// connection alone.
func (d *doubts) concern(key Key, code string) bool {
	if slices.Contains(clientErrors, code) {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	refused := d.refused[key.Connector]
	if len(refused) < enoughDoubt && !slices.Contains(refused, key) {
		if d.refused == nil {
			d.refused = make(map[connector.ID][]Key)
		}
		refused = append(refused, key)
		d.refused[key.Connector] = refused
	}
	return len(refused) < enoughDoubt
}

// clear is called when the token endpoint has taken a connection's refresh token.
func (d *doubts) clear(key Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.refused, key.Connector)
}

// clearDoubts is called when the token endpoint has shown that it knows the client: the
// connector's, unless the connection has one of its own.
func (a *attempt) clearDoubts(held *hold) {
	if _, own := a.conn.clientFor(held.rec.Settings); !own {
		a.refresher.broker.doubts.clear(a.refresher.key)
	}
}
