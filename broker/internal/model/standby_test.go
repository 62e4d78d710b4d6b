package model

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// switchStandby puts a connection into standby, or activates it.
func (w *world) switchStandby(rng *rand.Rand, p *process, key record.Key) {
	sel := broker.Selection{Consumer: key.Consumer}
	if rng.IntN(2) == 0 {
		w.run(p, "activate", time.Minute, func(ctx context.Context) error {
			_, err := p.broker.Activate(ctx, key.Application, sel)
			return err
		})
		return
	}
	w.run(p, "standby", time.Minute, func(ctx context.Context) error {
		done, err := p.broker.EnterStandby(ctx, key.Application, sel)
		if err != nil {
			return err
		}
		if len(done.Failed) > 0 {
			return done.Failed[0].Err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if h := w.histories[key]; h.rec != nil && h.rec.Standby && h.rec.Lease == nil {
			h.quiet = true
		}
		return nil
	})
}

// checkStandby checks what is saved of a connection in standby.
func (h *history) checkStandby(p *process, prev, next *record.Record) {
	w := h.world
	if !next.Standby || next.IsTombstone() {
		h.quiet = false
	}
	if !prev.Standby || prev.IsTombstone() {
		return
	}
	abandoned := prev.Lease != nil && next.Lease == nil && next.Cycle.Attempts == prev.Cycle.Attempts && next.Cycle.Ambiguous > prev.Cycle.Ambiguous
	switch {
	case abandoned:
		former := h.leases[prev.Lease.ID]
		h.ambiguous(former)
		if seen := p.seen[former.id]; !w.store.Exclusive && (seen.IsZero() || time.Since(seen) < former.duration) {
			w.violate("%s removes the lease of %s, which it has not watched for %v", p.name, former.holder.name, former.duration)
		}
	case next.Lease == nil || prev.Lease != nil && prev.Lease.ID == next.Lease.ID:
	case prev.Lease == nil || next.Cycle.Ambiguous > prev.Cycle.Ambiguous || h.leases[prev.Lease.ID].attempt == nil:
		w.violate("%s takes a lease in standby", p.name) // a lease of a request that was sent may be extended
	}
}

// checkQuiet checks a token request against the promise of a switch to standby that has ended.
func (h *history) checkQuiet(p *process, lease *savedLease) {
	if h.quiet && !p.disturbedSince(lease.begun) {
		h.world.violate("%s redeems in standby", p.name)
	}
}

// activateAll ends the standby of all connections.
func (w *world) activateAll() {
	var err error
	for range 20 {
		w.mu.Lock()
		p := w.replicas[0].current
		w.mu.Unlock()
		if p != nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			var done *broker.Switched
			if done, err = p.broker.Activate(ctx, "app", broker.Selection{}); err == nil && len(done.Failed) > 0 {
				err = done.Failed[0].Err
			}
			cancel()
			if err == nil {
				return
			}
		}
		time.Sleep(time.Minute)
	}
	w.violated("no activation succeeds: %v", err)
}
