package sweep

import (
	"context"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

const (
	// maxIdle is how many refreshes of idle connections may be in progress for one connector.
	// They wait for the budget of the token endpoint, and a pass must not add them faster than
	// they end. It is enough for 280,000 connections a day.
	maxIdle = 2000

	// maxCandidates is how many idle connections of one connector a pass starts while token
	// requests are held back. One of them may be accepted, which ends that; more would only wait.
	maxCandidates = 16
)

// refreshIdle starts a refresh of an idle connection, unless enough of its connector's are in
// progress. A later pass finds the others.
func (p *pass) refreshIdle(ctx context.Context, rec *record.Record, conn *record.Connector) {
	id := rec.Key.Connector
	if p.Connections.IsHeldBack(conn, rec) {
		if p.candidates[id] >= maxCandidates {
			return
		}
		p.candidates[id]++
	}
	if !p.idle.hasRoom(id) {
		return
	}
	p.did.refreshed++
	p.idle.add(id, p.Connections.Refresh(ctx, rec.Key))
}

// idleRefreshes are the refreshes of idle connections in progress, by connector: one that hangs
// must not keep the others from being refreshed.
type idleRefreshes struct {
	inProgress map[connector.ID][]<-chan struct{} // the oldest first; closed when the refresh has ended
}

// hasRoom reports whether one more refresh may begin.
func (r *idleRefreshes) hasRoom(id connector.ID) bool {
	all := r.inProgress[id]
	for len(all) > 0 && isClosed(all[0]) {
		all = all[1:]
	}
	if len(all) == 0 {
		delete(r.inProgress, id)
		return true
	}
	r.inProgress[id] = all
	return len(all) < maxIdle
}

// add notes a refresh that has begun.
func (r *idleRefreshes) add(id connector.ID, ended <-chan struct{}) {
	if r.inProgress == nil {
		r.inProgress = make(map[connector.ID][]<-chan struct{})
	}
	r.inProgress[id] = append(r.inProgress[id], ended)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
