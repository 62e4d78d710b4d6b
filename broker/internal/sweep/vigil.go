package sweep

import (
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// certainty is how long the wall clock must have said that it is time for a step that cannot be
// undone. A clock that is wrong at the start of a machine is usually set within that time.
const certainty = 5 * time.Minute

// A vigil watches the connections that lose something for good when their time comes. The wall
// clock can be wrong by a day, so one look at it is not enough: see the package record.
type vigil struct {
	watched map[record.Key]*sight // of tombstones that are due, and connections with a retention
}

// A sight is what was seen of one connection.
type sight struct {
	state  clock.Watch[state]
	due    clock.Watch[bool] // the wall clock says that it is time
	seenAt clock.Instant
}

// A state is what ends with the step. If it changes, the watch begins again.
type state struct {
	deleted int64       // of a tombstone; nanoseconds of Unix time
	parked  secret.Hash // of a parked connection
}

// isTime reports whether the state of a record is to end: the wall clock says so in two looks
// that are far enough apart, or this process has watched a parked connection for all of its
// retention.
func (v *vigil) isTime(rec *record.Record, now clock.Moment) bool {
	var st state
	var due bool
	switch {
	case rec.IsPurgeable(now.Wall):
		st.deleted, due = rec.Deleted.UnixNano(), true
	case rec.HasRetention():
		st.parked, due = rec.Cycle.Parked, rec.RetentionEnded(now.Wall)
	default:
		v.drop(rec.Key)
		return false
	}
	seen := v.watched[rec.Key]
	if seen == nil {
		if v.watched == nil {
			v.watched = make(map[record.Key]*sight)
		}
		seen = &sight{}
		v.watched[rec.Key] = seen
	}
	seen.seenAt = now.Mono
	watched := seen.state.See(st, now.Mono)
	sure := seen.due.See(due, now.Mono) >= certainty && watched >= certainty
	return due && sure || rec.RetentionWatched(watched)
}

// drop forgets one connection.
func (v *vigil) drop(key record.Key) { delete(v.watched, key) }

// forget forgets the connections that were not seen since.
func (v *vigil) forget(since clock.Instant) {
	for key, seen := range v.watched {
		if seen.seenAt < since {
			delete(v.watched, key)
		}
	}
}
