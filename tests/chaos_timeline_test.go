package tests

import (
	"net/http"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// A chaosStep is an action at a point of the lap.
type chaosStep struct {
	at time.Duration
	do func(*testing.T)
}

// timeline is one lap of the chaos. Each token response that is lost after the refresh token
// was spent may cost a grant, so only a few are lost.
func (c *chaos) timeline() []chaosStep {
	a, b, d := c.replicas[0], c.replicas[1], c.replicas[2]
	const s = time.Second
	on := func(f func(*testing.T, *replica), r *replica) func(*testing.T) { return func(t *testing.T) { f(t, r) } }
	endpoint := func(hook oauthserver.Hook) func(*testing.T) { return func(*testing.T) { c.breakEndpoint(hook) } }
	mended := func(*testing.T) { c.mendEndpoint() }
	return []chaosStep{
		{2 * s, on(c.kill, a)},
		{4 * s, on(c.start, a)},
		{5 * s, endpoint(oauthserver.Fail(http.StatusInternalServerError, "text/plain", "oops"))},
		{7 * s, mended},
		{8 * s, func(t *testing.T) { c.reload(t, a, b) }},
		{9 * s, on(c.terminate, d)},
		{10 * s, on(c.pause, a)},
		{11 * s, on(c.startAgain, d)},
		{13 * s, on(c.resume, a)},
		{14 * s, endpoint(oauthserver.Lose(oauthserver.Dropped, 5))},
		{16 * s, mended},
		{17 * s, c.seal},
		{20 * s, c.unseal},
		{21 * s, func(t *testing.T) { c.reload(t, a, b, d) }},
		{22 * s, func(*testing.T) { c.cut(b, b.network.hang) }},
		{24 * s, endpoint(oauthserver.Lose(oauthserver.Hung, 5))},
		{26 * s, mended},
		{27 * s, func(*testing.T) { c.connect(b) }},
		{28 * s, on(c.kill, b)},
		{29 * s, on(c.start, b)},
		{30 * s, c.restartVault}, // takes some seconds
		{38 * s, on(c.pause, d)}, // for longer than a lease
		{39 * s, func(*testing.T) { c.cut(a, a.network.refuse) }},
		{41 * s, func(*testing.T) { c.connect(a) }},
		{42 * s, endpoint(oauthserver.Lose(oauthserver.CutShort, 5))},
		{44 * s, mended},
		{45 * s, on(c.terminate, a)},
		{46 * s, on(c.startAgain, a)},
		{48 * s, func(t *testing.T) { c.reload(t, b) }},
		{50 * s, on(c.resume, d)},
		{51 * s, func(*testing.T) { c.cut(b, b.network.refuse) }}, // for longer than a lease
		{52 * s, on(c.kill, a)},
		{53 * s, on(c.start, a)},
		{55 * s, endpoint(oauthserver.Fail(http.StatusServiceUnavailable, "text/plain", "busy"))},
		{57 * s, mended},
		{58 * s, func(t *testing.T) { c.reload(t, d) }},
		{59 * s, on(c.kill, d)}, // heal or the next lap starts it
	}
}

func (c *chaos) kill(t *testing.T, r *replica) {
	c.breaks(processFault, r.name)
	r.kill(t)
}

// start starts a process. Its fault ends when it listens.
func (c *chaos) start(t *testing.T, r *replica) {
	r.start(t)
	p := r.process()
	c.watching.Go(func() {
		_ = brokertest.Retry(waitTimeout, func() error {
			if p.hasExited() {
				return nil
			}
			_, err := get(p.apiURL("/"), http.Header{})
			if err == nil {
				c.mend(processFault, r.name)
				c.mend(shutdownFault, r.name)
			}
			return err
		})
	})
}

func (c *chaos) terminate(t *testing.T, r *replica) {
	c.breaks(shutdownFault, r.name)
	r.process().terminate(t)
}

func (c *chaos) startAgain(t *testing.T, r *replica) {
	r.process().awaitExit(t)
	c.start(t, r)
}

func (c *chaos) pause(t *testing.T, r *replica) {
	c.breaks(processFault, r.name)
	r.pause(t)
}

func (c *chaos) resume(t *testing.T, r *replica) {
	if r.process().hasExited() {
		return
	}
	r.resume(t)
	c.mend(processFault, r.name)
}

func (c *chaos) reload(t *testing.T, replicas ...*replica) {
	for _, r := range replicas {
		c.breaks(reloadFault, r.name)
		r.reload(t)
		c.mend(reloadFault, r.name)
	}
}

func (c *chaos) cut(r *replica, how func()) {
	c.breaks(networkFault, r.name)
	how()
}

func (c *chaos) connect(r *replica) {
	r.network.pass()
	c.mend(networkFault, r.name)
}

func (c *chaos) seal(t *testing.T) {
	c.breaks(vaultFault, "")
	c.vault.Seal(t)
}

func (c *chaos) unseal(t *testing.T) {
	c.vault.Unseal(t)
	c.mend(vaultFault, "")
}

func (c *chaos) restartVault(t *testing.T) {
	c.breaks(vaultFault, "")
	c.vault.Kill(t)
	c.vault.Restart(t)
	c.mend(vaultFault, "")
}

func (c *chaos) breakEndpoint(hook oauthserver.Hook) {
	c.breaks(endpointFault, "")
	c.provider.OnToken(hook)
}

func (c *chaos) mendEndpoint() {
	c.provider.OnToken(nil)
	c.mend(endpointFault, "")
}
