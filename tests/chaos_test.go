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

var chaosTime = flag.Duration("chaos", time.Minute, "how long the chaos test lets things break; the connections have to last for all of it")

// The size of the chaos. The timeout makes a lease last 9 s.
const (
	chaosConnections = 200
	chaosLifetime    = 5 * time.Second // of access tokens
	chaosTimeout     = 2 * time.Second // of a token request
	chaosLap         = time.Minute     // then the timeline begins anew
	chaosHealing     = 3 * time.Minute // on a busy machine
)

// Three processes on one Vault keep hundreds of short-lived tokens fresh while all that
// can break does. In the end no grant was revoked whose fate was not recorded as
// ambiguous, nothing was recorded as ambiguous that was not, and all other connections
// work.
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

// A chaos is a deployment, what is done to it, and what its callers see of that.
type chaos struct {
	*deployment
	vault    *vaulttest.Server
	replicas []*replica
	begun    time.Time
	healed   time.Time      // when the last fault was mended
	watching sync.WaitGroup // for processes to listen

	mu     sync.Mutex // guards what is below
	faults []*fault
	calls  []call
}

// A fault is something that was broken for a while.
type fault struct {
	what     string
	replica  string // empty: all of them
	from, to time.Time
}

// The kinds of faults.
const (
	processFault  = "process" // killed, ended, paused, or not listening yet
	shutdownFault = "shutdown"
	networkFault  = "network" // between the replica and Vault
	vaultFault    = "vault"
	endpointFault = "token endpoint"
	reloadFault   = "reload" // Caddy ends connections that have sent nothing for 5 s, as on a busy machine
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

// run goes through the timeline, as often as there is time for. A step that is late,
// because the one before took long, is taken at once.
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

// breaks notes a fault from now on, until it is mended.
func (c *chaos) breaks(what, replica string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, &fault{what: what, replica: replica, from: time.Now()})
}

// mend ends all faults of a kind, of one replica or of all.
func (c *chaos) mend(what, replica string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.faults {
		if f.what == what && f.replica == replica && f.to.IsZero() {
			f.to = time.Now()
		}
	}
}

// wasBroken reports whether there was such a fault of a replica, or of what it needs,
// at some time between two.
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

// heal takes all faults away and waits until every process is ready.
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
