package model

import (
	"context"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A replica is a machine: a disk, a clock, and a process unless it is down.
type replica struct {
	world   *world
	name    string
	skew    atomic.Int64 // of its clock, in nanoseconds
	journal *brokertest.MemJournal

	current *process // nil while it is down
	starts  int

	unjournaledAt time.Time // when the journal last failed to take an answer

	trouble trouble       // of its access to the store
	secret  string        // configured client secret
	timeout time.Duration // configured timeout of token requests
}

// A process is a broker that can be paused or killed at every step outside its memory, as by
// SIGSTOP and SIGKILL.
type process struct {
	replica *replica
	world   *world
	name    string
	broker  *broker.Broker

	dead        bool
	closing     bool
	resume      chan struct{} // closed when the pause ends; nil if it is not paused
	trap        *trap
	disturbedAt time.Time
	resumedAt   time.Time // when the last pause ended

	stepsAt time.Time // the instant that steps counts for
	steps   int

	floors map[record.Key]uint64 // the highest generation handed out
	seen   map[string]time.Time  // lease id :: when it first read the lease
}

// A trap pauses or crashes the process at a point.
type trap struct {
	point string
	skip  int           // how often the process passes the point before
	pause time.Duration // 0: it crashes
}

// shutdownTime is five seconds more than the longest timeout of a token request.
const shutdownTime = 35 * time.Second

// start starts a process. The caller holds the world's mu, or has the world to itself.
func (r *replica) start() {
	w := r.world
	r.starts++
	p := &process{
		replica: r, world: w, name: r.name + "." + string(rune('a'+(r.starts-1)%26)), disturbedAt: time.Now(),
		floors: make(map[record.Key]uint64), seen: make(map[string]time.Time),
	}
	p.broker = broker.New(broker.Options{
		Open: func(context.Context) (record.Store, error) {
			if err := p.pass("open"); err != nil {
				return nil, err
			}
			return &processStore{p}, nil
		},
		Journal:   &processJournal{p},
		Clock:     processClock{p},
		Transport: func(bool) http.RoundTripper { return processTransport{p} },
	})
	p.broker.Configure(r.config(p))
	r.current = p
	w.processes = append(w.processes, p)
	w.logf("%s starts, clock %v", p.name, time.Duration(r.skew.Load()))
}

// pass is called before and after every step outside the process's memory. It blocks while
// the process is paused, and until the end of the run if it has crashed.
func (p *process) pass(point string) error {
	w := p.world
	w.mu.Lock()
	defer w.mu.Unlock()
	p.checkBusy(point)
	if a := p.trap; a != nil && a.point == point {
		if a.skip--; a.skip < 0 {
			p.trap = nil
			w.logf("%s is at %s", p.name, point)
			if a.pause > 0 {
				p.pause(a.pause)
			} else {
				p.crash()
			}
		}
	}
	for {
		switch {
		case p.dead:
			w.mu.Unlock()
			<-w.over
			w.mu.Lock()
			return errOver
		case p.resume == nil:
			return nil
		}
		resume := p.resume
		w.mu.Unlock()
		<-resume
		w.mu.Lock()
	}
}

// checkBusy ends a process that makes step after step while no time passes. The caller holds
// the world's mu.
func (p *process) checkBusy(point string) {
	const most = 5000
	if now := time.Now(); !now.Equal(p.stepsAt) {
		p.stepsAt, p.steps = now, 0
	}
	if p.steps++; p.steps > most && !p.dead {
		p.world.violate("%s is busy forever, now at %s; %s", p.name, point, debug.Stack())
		p.crash()
	}
}

// pause pauses the process for d. The caller holds the world's mu, as for unpause and crash.
func (p *process) pause(d time.Duration) {
	if p.resume != nil || p.dead {
		return
	}
	p.world.logf("%s is paused for %v", p.name, d)
	resume := make(chan struct{})
	p.resume = resume
	time.AfterFunc(d, func() {
		p.world.mu.Lock()
		defer p.world.mu.Unlock()
		if p.resume == resume {
			p.unpause()
		}
	})
}

func (p *process) unpause() {
	if p.resume == nil {
		return
	}
	p.world.logf("%s goes on", p.name)
	p.resumedAt = time.Now()
	p.disturb()
	close(p.resume)
	p.resume = nil
}

// crash ends the process. Another one starts on its machine some time later.
func (p *process) crash() {
	if p.dead {
		return
	}
	w := p.world
	w.logf("%s crashes", p.name)
	p.dead = true
	if p.resume != nil {
		close(p.resume)
		p.resume = nil
	}
	r := p.replica
	if r.current != p || w.ending {
		return
	}
	r.current = nil
	time.AfterFunc(between(w.rng, 0, 2*time.Minute), func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if r.current == nil && !w.ending {
			r.start()
		}
	})
}

// close closes the broker.
func (p *process) close(patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return p.broker.Close(ctx)
}

// Emit implements [record.EventSink].
func (p *process) Emit(_ context.Context, event record.Event) {
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	if !p.dead {
		p.world.histories[event.Connection.Key].emitted[event.Type]++
	}
}

// A processClock is the clock of the process's machine, off by the replica's skew. A paused
// process cannot read it.
type processClock struct{ *process }

// Now implements [clock.Clock].
func (c processClock) Now() time.Time {
	_ = c.pass("now") // blocks if the process has crashed
	return c.now()
}

func (p *process) now() time.Time {
	return time.Now().Round(0).Add(time.Duration(p.replica.skew.Load()))
}

// Elapsed implements [clock.Clock]. Setting the clock does not affect it.
func (c processClock) Elapsed() time.Duration {
	_ = c.pass("now")
	return time.Since(c.world.begun)
}

// Sleep implements [clock.Clock].
func (c processClock) Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return c.pass("wake")
	case <-ctx.Done():
		return ctx.Err()
	case <-c.world.over:
		return errOver
	}
}

var (
	_ clock.Clock      = processClock{}
	_ record.EventSink = (*process)(nil)
)
