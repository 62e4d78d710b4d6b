package tests

import (
	"flag"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

var chaosTime = flag.Duration("chaos", time.Minute, "how long the chaos test breaks things")

// The size of the chaos. With this timeout a lease lasts 9 s.
const (
	chaosConnections = 200
	chaosLifetime    = 5 * time.Second // of access tokens
	chaosTimeout     = 2 * time.Second // of a token request
	chaosLap         = time.Minute     // length of the timeline, which repeats
	chaosHealing     = 3 * time.Minute // for recovery afterwards, on a busy machine
)

// Three processes on one Vault refresh hundreds of short-lived tokens while everything around
// them breaks in turn. Afterwards, an outcome was recorded as ambiguous for every grant that
// was revoked, every outcome recorded as ambiguous was, and all other connections work.
func TestChaosBurnsNoRefreshTokenUnrecorded(t *testing.T) {
	t.Parallel()
	c := newChaos(t)
	c.importAll(t)
	stopCalls := c.callSteadily(t)
	c.run(t)
	c.heal(t)
	stopCalls()
	c.settle(t)
	for _, r := range c.replicas {
		r.process().stop(t)
	}
	c.verify(t)
}

// A chaos is a deployment, its faults, and the calls made meanwhile.
type chaos struct {
	*deployment
	vault    *vaulttest.Server
	replicas []*replica
	begun    time.Time
	healed   time.Time      // when the last fault ended
	watching sync.WaitGroup // goroutines that wait for a process to listen

	mu     sync.Mutex
	faults []*fault // guarded by mu
	calls  []call   // guarded by mu
}

// A fault is something that was broken for some time.
type fault struct {
	what     string
	replica  string // name of the replica; empty: all replicas
	from, to time.Time
}

// The kinds of faults.
const (
	processFault  = "process" // the process was killed, has ended, is paused, or does not listen yet
	shutdownFault = "shutdown"
	networkFault  = "network" // the network between the replica and Vault
	vaultFault    = "vault"
	endpointFault = "token endpoint"
	reloadFault   = "reload" // Caddy closes connections that were idle for 5 s, as on a busy machine
)

func newChaos(t *testing.T) *chaos {
	server := vaulttest.Start(t, vaulttest.WithStorage(vaulttest.Raft))
	d := newDeployment(t, oauthserver.Config{Lifetime: chaosLifetime})
	c := &chaos{deployment: d, vault: server, replicas: d.replicas(t, server, 3, chaosTimeout.String())}
	for _, r := range c.replicas {
		r.start(t)
	}
	awaitAll(t, c.replicas)
	t.Cleanup(c.watching.Wait)
	return c
}

func chaosCustomer(i int) string { return fmt.Sprintf("customer-%03d", i) }

func (c *chaos) importAll(t *testing.T) {
	t.Helper()
	bodies := make([]string, chaosConnections)
	for i := range bodies {
		bodies[i] = tokensBody(t, c.provider.Login(t, chaosCustomer(i), 0), nil)
	}
	if err := inParallel(chaosConnections, func(i int) error {
		return c.replicas[i%len(c.replicas)].process().tryImport(chaosCustomer(i), bodies[i])
	}); err != nil {
		t.Fatal(err)
	}
}

// run repeats the timeline until the time is over. A step that is late because the one before
// it took long runs at once.
func (c *chaos) run(t *testing.T) {
	c.begun = time.Now()
	for lap := time.Duration(0); lap < *chaosTime; lap += chaosLap {
		for _, step := range c.timeline() {
			at := lap + step.at
			if at >= *chaosTime {
				return
			}
			select {
			case <-time.After(time.Until(c.begun.Add(at))):
			case <-t.Context().Done():
				return
			}
			step.do(t)
		}
	}
}

// breaks records that a fault begins now.
func (c *chaos) breaks(what, replica string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, &fault{what: what, replica: replica, from: time.Now()})
}

// mend records that the faults of a kind and replica end now.
func (c *chaos) mend(what, replica string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.faults {
		if f.what == what && f.replica == replica && f.to.IsZero() {
			f.to = time.Now()
		}
	}
}

// wasBroken reports whether there was a fault of one of the kinds between two times that
// affected the replica. An empty replica stands for any.
func (c *chaos) wasBroken(from, to time.Time, replica string, kinds ...string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.faults {
		if f.replica != "" && replica != "" && f.replica != replica || f.from.After(to) || !f.to.IsZero() && f.to.Before(from) {
			continue
		}
		if slices.Contains(kinds, f.what) {
			return true
		}
	}
	return false
}

// heal ends all faults and waits until every process is ready.
func (c *chaos) heal(t *testing.T) {
	t.Helper()
	c.provider.OnToken(nil)
	c.mend(endpointFault, "")
	c.vault.Unseal(t)
	c.mend(vaultFault, "")
	for _, r := range c.replicas {
		c.connect(r)
		c.resume(t, r)
		if r.process().hasExited() {
			c.start(t, r)
		}
	}
	c.healed = time.Now()
	for _, r := range c.replicas {
		brokertest.Eventually(t, chaosHealing, "readiness of replica "+r.name, r.process().ready)
	}
}
