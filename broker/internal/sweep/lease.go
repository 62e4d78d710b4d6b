package sweep

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/storequeue"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// The lease and the position of the sweep are in a record of the broker's own. Other versions
// of the program know only the lease, and keep the rest.

const (
	leaseDuration   = 5 * time.Minute // renewed during a pass
	giveBackTimeout = 5 * time.Second // a shutdown waits for it
)

// leaseKey is the key of the record with the lease.
var leaseKey = record.Key{Application: record.OwnApplication, Consumer: "sweep", Connector: connector.ID{UnifiedAPI: "broker", ServiceID: "sweep"}}

// positionName is the member of the record's metadata that holds the position.
const positionName = "after"

// takeLease takes the lease, and reads the position where the last pass was stopped. If
// another process has the lease, p.lease stays nil.
func (p *pass) takeLease(ctx context.Context) error {
	lease := newLease()
	taken, err := p.update(ctx, func(rec *record.Record) bool {
		if l := rec.Lease; l != nil && p.IsShared() && (p.observed.See(l.ID, p.now()) < l.Duration) {
			return false
		}
		rec.Lease, p.after = lease, position(rec)
		return true
	})
	if err != nil || !taken {
		return err
	}
	p.lease, p.renewed, p.resumed = lease, p.now(), p.after != record.Key{}
	return nil
}

// renewLease replaces the lease and stores the position. If another process has taken the
// lease over, p.lease becomes nil.
func (p *pass) renewLease(ctx context.Context) error {
	next := newLease()
	renewed, err := p.update(ctx, func(rec *record.Record) bool {
		if !rec.Holds(p.lease) {
			return false
		}
		rec.Lease = next
		setPosition(rec, p.after)
		return true
	})
	if err != nil {
		return err
	}
	if p.lease = next; !renewed {
		p.lease = nil
	}
	p.renewed = p.now()
	return nil
}

// giveBack removes the lease and stores the position, also during a shutdown.
func (p *pass) giveBack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(storequeue.With(context.WithoutCancel(ctx), storequeue.Settle), giveBackTimeout)
	defer cancel()
	_, err := p.update(ctx, func(rec *record.Record) bool {
		if !rec.Holds(p.lease) {
			return false
		}
		rec.Lease = nil
		setPosition(rec, p.after)
		return true
	})
	return err
}

// update changes the record with the lease, unless change returns false. It reports whether it
// did.
func (p *pass) update(ctx context.Context, change func(*record.Record) bool) (bool, error) {
	rec, _, err := p.Records.UpdateIf(ctx, leaseKey, func(rec *record.Record) *record.Record {
		if rec == nil {
			rec = &record.Record{Key: leaseKey, CreatedAt: p.Clock.Now()}
		}
		if !change(rec) {
			return nil
		}
		return rec
	})
	return rec != nil, err
}

func newLease() *record.Lease { return &record.Lease{ID: uuid.NewString(), Duration: leaseDuration} }

// position returns the key behind which a pass goes on; zero: it begins with the first.
func position(rec *record.Record) record.Key {
	parts, _ := rec.Metadata[positionName].([]any)
	if len(parts) != 4 {
		return record.Key{}
	}
	var key record.Key
	for i, p := range []*string{&key.Application, &key.Consumer, &key.Connector.UnifiedAPI, &key.Connector.ServiceID} {
		*p, _ = parts[i].(string)
	}
	return key
}

func setPosition(rec *record.Record, key record.Key) {
	rec.Metadata = nil
	if key != (record.Key{}) {
		rec.Metadata = map[string]any{positionName: []any{key.Application, key.Consumer, key.Connector.UnifiedAPI, key.Connector.ServiceID}}
	}
}
