package broker

import (
	"context"
	"errors"
	"sync"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A DryRun imports without storing anything: it reads the stored records, and finds out what
// imports would do. An import builds on those before it in the same dry run. It neither
// begins a refresh nor sends an event. A DryRun is safe for concurrent use, except with
// two imports of the same connection.
//
// A store's own limit for the size of a record shows only in a real import.
type DryRun struct {
	broker *Broker

	mu       sync.Mutex
	imported map[record.Key]*record.Record // guarded by mu
}

// NewDryRun returns a dry run.
func (b *Broker) NewDryRun() *DryRun {
	return &DryRun{broker: b, imported: make(map[record.Key]*record.Record)}
}

// Import finds out what the import would do. Errors are those of [Broker.Import].
func (d *DryRun) Import(ctx context.Context, key record.Key, imp *record.Import) (*Imported, error) {
	i := importing{key: key, imp: imp, now: d.broker.engine.Now()}
	if err := i.check(d.broker.Config()); err != nil {
		return nil, err
	}
	old, err := d.load(ctx, key)
	if err != nil {
		return nil, err
	}
	rec, err := i.apply(old)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.imported[key] = rec
	return i.done(rec), nil
}

// load returns the record as the imports before would have left it, or nil.
func (d *DryRun) load(ctx context.Context, key record.Key) (*record.Record, error) {
	d.mu.Lock()
	rec := d.imported[key]
	d.mu.Unlock()
	if rec != nil {
		return rec.Clone(), nil
	}
	rec, _, err := d.broker.engine.Load(ctx, key)
	if errors.Is(err, record.ErrNotFound) {
		return nil, nil
	}
	return rec, err
}
