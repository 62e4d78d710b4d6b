package storecopy

import (
	"bytes"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// reservedBy marks the metadata of a reservation.
const reservedBy, reservedByCopy = "reserved_by", "store copy"

// newReservation returns a tombstone without secrets that keeps the place of a record that is
// not in standby.
func newReservation(rec *record.Record) *record.Record {
	return &record.Record{
		Key: rec.Key, CreatedAt: rec.CreatedAt, Deleted: time.Now(), Generation: rec.Generation,
		Metadata: map[string]any{reservedBy: reservedByCopy},
	}
}

func isReservation(rec *record.Record) bool {
	return rec.IsTombstone() && rec.Metadata[reservedBy] == reservedByCopy
}

// isStill reports whether no broker changes a record by itself.
func isStill(rec *record.Record) bool { return rec.Standby || rec.IsTombstone() }

// isNothing reports whether a record is a tombstone that is about to be removed, or a reservation.
func isNothing(rec *record.Record) bool {
	return rec.IsTombstone() && (rec.Lease != nil || isReservation(rec))
}

// isCopy reports whether two records are the same, standby apart.
func isCopy(rec, there *record.Record) bool {
	same := *rec
	same.Standby = there.Standby
	a, err := record.Encode(&same)
	if err != nil {
		return false
	}
	b, err := record.Encode(there)
	return err == nil && bytes.Equal(a, b)
}
