package model

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// acme is the only connector: OAuth with refresh tokens.
var acme = connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}

// A world holds the store, the provider and the replicas of one run, and the observations
// of them.
type world struct {
	begun    time.Time
	over     chan struct{} // closed when the run is over: crashed processes end then
	keys     []record.Key
	store    *brokertest.MemStore
	provider *provider
	replicas []*replica
	jumps    bool // clocks are set by up to a day; what a clock says proves nothing then

	background sync.WaitGroup // calls, and token requests in progress

	// mu guards the fields below, and the replicas, processes, provider and histories. It
	// is never held across a wait: virtual time would stop.
	mu         sync.Mutex
	rng        *rand.Rand
	ending     bool
	healed     bool
	processes  []*process // including those that have ended
	histories  map[record.Key]*history
	attempts   map[string]*attempt // by lease
	refused    map[string]bool     // access tokens that downstream has refused: to all processes the wait in the record is a short one
	calls      int                 // in progress on live processes
	lines      []string
	violations []string
}

// errOver is what a crashed process gets when the run is over.
var errOver = fmt.Errorf("%w: the run is over", record.ErrStoreUnavailable)

// newWorld draws a world. Call it in a synctest bubble.
func newWorld(seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, 0))
	w := &world{
		begun: time.Now(), over: make(chan struct{}), rng: rng,
		store:     &brokertest.MemStore{},
		histories: make(map[record.Key]*history), attempts: make(map[string]*attempt), refused: make(map[string]bool),
	}
	w.provider = newProvider(w, rng)
	w.jumps = rng.IntN(4) == 0
	replicas := 3
	if rng.IntN(10) == 0 {
		replicas, w.store.Exclusive = 1, true
	}
	for _, consumer := range []string{"ann", "bob"} {
		key := record.Key{Application: "app", Consumer: consumer, Connector: acme}
		w.keys = append(w.keys, key)
		w.histories[key] = newHistory(w, key)
	}
	for i := range replicas {
		r := &replica{
			world: w, name: fmt.Sprint("r", i+1), journal: &brokertest.MemJournal{},
			timeout: 20 * time.Second, secret: w.provider.secret,
		}
		r.skew.Store(int64(between(rng, -90*time.Second, 90*time.Second)))
		w.replicas = append(w.replicas, r)
		r.start()
	}
	return w
}

// config returns the configuration of a process of the replica.
func (r *replica) config(p *process) *record.Config {
	def := connector.Definition{
		ID: acme, AuthType: connector.OAuth2, BaseURL: "https://api.acme.test", TokenURL: "https://auth.acme.test/token",
		AuthStyle: connector.AuthHeader, Rotation: r.world.provider.rotation,
		RefreshRate: 1, RefreshConcurrency: 1, // one of the two connections often waits for the other
	}
	def = def.WithDefaults()
	return &record.Config{
		Connectors: map[connector.ID]*record.Connector{
			acme: {Definition: def, Client: record.Client{ID: "client", Secret: secret.New(r.secret)}},
		},
		RefreshTimeout: r.timeout,
		Retention:      r.world.provider.retention,
		Events:         p,
	}
}

// heal ends all trouble, and waits for the restarts that are due.
func (w *world) heal() {
	w.mu.Lock()
	w.logf("----- healed")
	w.healed = true
	w.provider.trouble = trouble{}
	for _, r := range w.replicas {
		r.trouble = trouble{}
		r.journal.Fail(nil)
		r.secret, r.timeout = w.provider.secret, 20*time.Second
		if p := r.current; p != nil {
			p.trap = nil
			p.unpause()
			p.disturb()
			p.broker.Configure(r.config(p))
		}
	}
	w.mu.Unlock()
	time.Sleep(2 * time.Minute)
}

// end closes the live processes, then lets the crashed ones end.
func (w *world) end() {
	w.mu.Lock()
	live := make([]*process, 0, len(w.replicas))
	for _, r := range w.replicas {
		if r.current != nil {
			live = append(live, r.current)
		}
	}
	w.ending = true
	w.mu.Unlock()
	var closing sync.WaitGroup
	for _, p := range live {
		closing.Go(func() {
			if err := p.close(shutdownTime); err != nil {
				w.violated("%s does not close: %v", p.name, err)
			}
		})
	}
	closing.Wait()
	close(w.over)
	for _, p := range w.processes {
		if err := p.close(time.Minute); err != nil {
			w.violated("%s, crashed, does not end: %v", p.name, err)
		}
	}
	w.background.Wait()
}

// disturbedSince reports whether something outside the processes has kept p from its work
// since then. The caller holds mu.
func (p *process) disturbedSince(then time.Time) bool {
	return p.dead || p.closing || p.resume != nil || !p.disturbedAt.Before(then)
}

// disturb notes that something keeps p from its work now. The caller holds mu.
func (p *process) disturb() { p.disturbedAt = time.Now() }

// chance draws true with a probability in percent. The caller holds mu.
func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

// logf adds to the trace. The caller holds mu.
func (w *world) logf(format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf("%12.3fs ", time.Since(w.begun).Seconds())+fmt.Sprintf(format, args...))
}

// violate records a violation. The caller holds mu.
func (w *world) violate(format string, args ...any) {
	w.logf("VIOLATION "+format, args...)
	w.violations = append(w.violations, fmt.Sprintf("  at %.3fs: ", time.Since(w.begun).Seconds())+fmt.Sprintf(format, args...))
}

// violated is violate for callers that do not hold mu.
func (w *world) violated(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violate(format, args...)
}

// errTrouble is the error of a failing store.
var errTrouble = errors.New("trouble")
