package broker

import (
	"net/http"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// maxPlaced bounds what is kept of a snapshot's placements, in bytes. A connection in
// use costs memory as long as it is not idle.
const maxPlaced = 1 << 10

// A placed is what the placements of a snapshot put into a request, ready for the next
// one: that is the same as long as neither the connection nor its connector changes.
type placed struct {
	conn    *record.Connector // as it was configured then
	headers []placedHeader
	others  []connector.Injection // which depend on what the request has there already
	values  []secret.String       // see [Authorization]
}

type placedHeader struct {
	name  string
	value []string // shared by requests, none of which changes it
}

// placeAll puts all credentials of the snapshot into req.
func (a *Authorization) placeAll(req *http.Request, snap *snapshot) error {
	ready := snap.placed.Load()
	if ready == nil || ready.conn != a.conn {
		injections, err := injectionsFor(a.conn, snap.rec)
		if err != nil {
			return err
		}
		var size int
		if ready, size = prepare(a.conn, injections); size <= maxPlaced {
			snap.placed.Store(ready)
		}
	}
	a.values = ready.values
	for _, h := range ready.headers {
		removeHeader(req, h.name)
		req.Header[h.name] = h.value
	}
	for _, i := range ready.others {
		if i.Kind == connector.InQuery {
			setQuery(req.URL, i.Name, i.Value)
		} else {
			setCookie(req, i.Name, i.Value)
		}
	}
	return nil
}

// prepare returns what the injections put into requests, and how large that is.
func prepare(conn *record.Connector, injections []connector.Injection) (*placed, int) {
	ready, size := &placed{conn: conn}, 0
	for _, i := range injections {
		size += len(i.Value)
		if i.Kind == connector.InHeader {
			ready.headers = append(ready.headers, placedHeader{i.Name, []string{i.Value}})
		} else {
			ready.others = append(ready.others, i)
		}
		for _, value := range i.Secrets {
			ready.values = append(ready.values, secret.New(value))
		}
	}
	return ready, size
}
