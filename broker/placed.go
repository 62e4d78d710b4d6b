package broker

import (
	"net/http"
	"net/url"
	"slices"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// maxPlaced bounds what is kept of a snapshot's placements, in bytes. A connection in
// use costs memory as long as it is not idle.
const maxPlaced = 1 << 10

// A placed is what the placements of a snapshot put into a request, ready for the next
// one: that is the same as long as neither the connection nor its connector changes.
type placed struct {
	conn    *Connector // as it was configured then
	headers []placedHeader
	values  []Secret // see [Authorization]
}

type placedHeader struct {
	name  string
	value []string // shared by requests, none of which changes it
}

// placeAll puts all credentials of the snapshot into req.
func (a *Authorization) placeAll(req *http.Request, snap *snapshot) error {
	if ready := snap.placed.Load(); ready != nil && ready.conn == a.conn {
		a.values = ready.values
		for _, h := range ready.headers {
			removeHeader(req, h.name)
			req.Header[h.name] = h.value
		}
		return nil
	}
	placements := a.conn.Placements()
	if !slices.ContainsFunc(placements, func(p connector.Placement) bool { return p.Kind != connector.InHeader && p.Kind != connector.InBasic }) {
		return a.prepare(req, placements, snap)
	}
	for _, p := range placements {
		if err := a.place(req, p, snap); err != nil {
			return err
		}
	}
	return nil
}

// prepare places credentials that go into headers of their own, and keeps them for the
// next request.
func (a *Authorization) prepare(req *http.Request, placements []connector.Placement, snap *snapshot) error {
	blank := &http.Request{Header: make(http.Header, len(placements)), URL: &url.URL{}}
	for _, p := range placements {
		if err := a.place(blank, p, snap); err != nil {
			return err
		}
	}
	ready := &placed{conn: a.conn, values: slices.Clip(a.values)}
	size := 0
	for name, value := range blank.Header {
		removeHeader(req, name)
		req.Header[name] = value
		ready.headers = append(ready.headers, placedHeader{name, value})
		size += len(value[0])
	}
	if size <= maxPlaced {
		snap.placed.Store(ready)
	}
	return nil
}
