package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/pace"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tracing"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A Selection selects connections of an application, some at a time. The zero Selection
// selects the first of all.
type Selection struct {
	Connector connector.ID // a part that is empty selects all
	Consumer  string       // empty: all
	After     record.Key   // Next of the [Switched] before, whose application does not matter; zero: from the first on
	Limit     int          // how many connections are switched at most. Default: 200
}

const (
	defaultSwitches = 200
	maxSwitching    = 64 // at the same time

	// switchTime is how long connections are begun to be switched, and switchPatience how long
	// all of them may take. A caller waits for it.
	switchTime     = 10 * time.Second
	switchPatience = 20 * time.Second

	// maxScanned is how many connections that are not selected are passed over. The store makes
	// a request for each consumer.
	maxScanned = 10_000

	// maxSwitchFailures is after how many failures the rest is left to the next call: likely the
	// store is out of reach.
	maxSwitchFailures = 32
)

// Switched tells what [Broker.EnterStandby] or [Broker.Activate] has done.
type Switched struct {
	Changed   int // connections that were not so before
	Unchanged int
	Failed    []SwitchFailure // connections that may be as before; the call can be repeated
	Next      record.Key      // where to go on; zero: there are no more
}

// A SwitchFailure is a connection that could not be switched.
type SwitchFailure struct {
	Key record.Key
	Err error
}

// EnterStandby puts connections of an application into standby: another system refreshes their
// tokens, and the broker serves what was imported. It redeems no refresh token of theirs and
// revokes none. A connection counts as changed or unchanged only when no token request of it is
// in progress any longer, in any process; [record.ErrRefreshing] says that one still was. Errors:
// [*record.InputError], [record.ErrStoreUnavailable], [record.ErrShuttingDown], ctx's.
func (b *Broker) EnterStandby(ctx context.Context, application string, sel Selection) (*Switched, error) {
	return b.switchAll(ctx, "token_broker.standby", application, sel, b.enterStandby)
}

// Activate ends the standby of connections of an application. Those that have no valid token are
// refreshed in the background, as fast as their token endpoints allow. Errors: those of
// [Broker.EnterStandby].
func (b *Broker) Activate(ctx context.Context, application string, sel Selection) (*Switched, error) {
	return b.switchAll(ctx, "token_broker.activate", application, sel, b.activate)
}

// switchAll applies set to the connections that sel selects.
func (b *Broker) switchAll(ctx context.Context, operation, application string, sel Selection,
	set func(context.Context, record.Key) (changed bool, err error),
) (_ *Switched, err error) {
	ctx, span := b.engine.StartSpan(ctx, operation)
	defer func() { tracing.EndSpan(span, err) }()
	ctx, cancel := context.WithTimeout(ctx, switchPatience)
	defer cancel()
	if err := sel.check(application); err != nil {
		return nil, err
	}
	if sel.After != (record.Key{}) {
		sel.After.Application = application
	}
	s, err := b.engine.Store(ctx)
	if err != nil {
		return nil, err
	}
	run := switching{set: set}
	run.tasks.SetLimit(maxSwitching)
	beginning, end := context.WithTimeout(ctx, switchTime)
	defer end()
	scanned, last := 0, sel.After
	for key, err := range s.ListBehind(ctx, application, sel.Consumer, sel.After) {
		if err != nil {
			return nil, errors.Join(err, run.tasks.Wait())
		}
		if scanned == maxScanned || run.begun == sel.limit() || run.isFailing() || scanned > 0 && beginning.Err() != nil {
			run.done.Next = last
			break
		}
		scanned, last = scanned+1, key
		if sel.selects(key.Connector) {
			run.begin(ctx, key)
		}
	}
	err = run.tasks.Wait()
	span.SetAttributes(attribute.Int("token_broker.changed", run.done.Changed), attribute.Int("token_broker.failed", len(run.done.Failed)))
	return &run.done, err
}

func (s *Selection) check(application string) error {
	if err := record.ValidateName(record.ApplicationField, application); err != nil {
		return err
	}
	if s.Consumer == "" {
		return nil
	}
	return record.CheckName(record.InputSyntax, "consumer_id", s.Consumer)
}

func (s *Selection) limit() int {
	if s.Limit <= 0 {
		return defaultSwitches
	}
	return s.Limit
}

func (s *Selection) selects(id connector.ID) bool {
	return (s.Connector.UnifiedAPI == "" || s.Connector.UnifiedAPI == id.UnifiedAPI) &&
		(s.Connector.ServiceID == "" || s.Connector.ServiceID == id.ServiceID)
}

// A switching is one run of switchAll.
type switching struct {
	set   func(context.Context, record.Key) (changed bool, err error)
	tasks errgroup.Group
	begun int

	mu   sync.Mutex
	done Switched // guarded by mu until tasks have ended
}

func (s *switching) isFailing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.done.Failed) >= maxSwitchFailures
}

// begin switches a connection as soon as few enough others are in progress.
func (s *switching) begin(ctx context.Context, key record.Key) {
	s.begun++
	s.tasks.Go(func() error {
		changed, err := s.set(ctx, key)
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case errors.Is(err, record.ErrConnectionNotFound): // a tombstone, or deleted a moment ago
		case errors.Is(err, record.ErrShuttingDown):
			return err
		case err != nil:
			s.done.Failed = append(s.done.Failed, SwitchFailure{key, err})
		case changed:
			s.done.Changed++
		default:
			s.done.Unchanged++
		}
		return nil
	})
}

// enterStandby puts one connection into standby, and waits for its token request.
func (b *Broker) enterStandby(ctx context.Context, key record.Key) (changed bool, err error) {
	rec, changed, err := b.switchOne(ctx, key, (*record.Record).EnterStandby)
	if err != nil {
		return false, err
	}
	return changed, b.waiter.Wait(ctx, rec)
}

// activate ends the standby of one connection.
func (b *Broker) activate(ctx context.Context, key record.Key) (changed bool, err error) {
	rec, changed, err := b.switchOne(ctx, key, func(rec *record.Record) bool {
		return rec.Activate(b.Config().Connectors[key.Connector], b.engine.Now())
	})
	if err == nil && rec.Cycle.Queued {
		b.engine.Refresher(key).Start(ctx, pace.Imported)
	}
	return changed, err
}

// switchOne changes a record, unless change reports that it did nothing, and returns it.
func (b *Broker) switchOne(ctx context.Context, key record.Key, change func(*record.Record) bool) (rec *record.Record, changed bool, err error) {
	r := b.engine.Refresher(key)
	defer r.DropIfUnknown()
	var unchanged *record.Record
	rec, rev, err := b.engine.Update(ctx, key, func(stored *record.Record) (*record.Record, error) {
		if stored == nil || stored.IsTombstone() {
			return nil, record.ConnectionNotFound(key)
		}
		if !change(stored) {
			unchanged = stored
			return nil, record.ErrUnchanged
		}
		stored.UpdatedAt = b.engine.Now()
		return stored, nil
	})
	switch {
	case errors.Is(err, record.ErrUnchanged):
		return unchanged, false, nil
	case err != nil:
		return nil, false, err
	}
	r.Install(rec, rev)
	return rec, true, nil
}
