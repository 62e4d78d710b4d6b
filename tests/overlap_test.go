package tests

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// The size of the overlap.
const (
	overlapConnections = 20
	overlapLifetime    = 6 * time.Second // of access tokens
	overlapCallEvery   = 150 * time.Millisecond
)

// An overlap is a move during which the old system and the broker both have the connections, and
// calls go through the broker all the time.
type overlap struct {
	*deployment
	old       *oldSystem
	processes []*process // the first one gets the commands
	file      string     // of the old system's dumps
	behind    time.Duration
	customers []string

	calls    *overlapCalls
	imported []handOver // what the broker was given, in this order
	// When the broker was allowed to refresh, or becoming so, and when no longer.
	activating, activated, leaving, left time.Time
}

// A handOver is a table that the broker has.
type handOver struct {
	rows map[string]oldRow
	by   time.Time // from then on
}

// An old system goes on refreshing while the broker is in standby, until the cut-over under load.
// Then the old system takes over again. No grant is lost, and calls fail only if the token that
// the broker had was replaced or has expired.
func TestOverlapWithAnOldSystemAndBack(t *testing.T) {
	t.Parallel()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		d := newDeployment(t, oauthserver.Config{Lifetime: overlapLifetime}).onDisk()
		newOverlap(t, d, d.start(t)).run(t)
	})
	t.Run("replicas", func(t *testing.T) {
		t.Parallel()
		d := newDeployment(t, oauthserver.Config{Lifetime: overlapLifetime})
		replicas := d.replicas(t, vaulttest.Shared(t), 2, "30s")
		for _, r := range replicas {
			r.start(t)
		}
		awaitAll(t, replicas)
		o := newOverlap(t, replicas[0].deployment, replicas[0].process(), replicas[1].process())
		o.behind = time.Second // in standby without a valid token, a replica reads the store once a second
		o.run(t)
	})
}

func newOverlap(t *testing.T, d *deployment, processes ...*process) *overlap {
	t.Helper()
	customers := customersOf(overlapConnections)
	return &overlap{
		deployment: d, processes: processes, old: newOldSystem(t, d, customers),
		file: filepath.Join(t.TempDir(), "tokens.csv"), customers: customers,
	}
}

func (o *overlap) run(t *testing.T) {
	begun := time.Now()
	o.provider.OnToken(slowly) // old access tokens end before the new ones arrive
	stopOld := o.old.run(t)
	o.importTable(t)
	o.calls = o.callSteadily(t)
	o.importUntil(t, func() error { return o.refreshed(true, begun, 2) })

	stopOld()
	o.importTable(t)
	o.verifyTable(t)
	// The operator takes so long that a token expires.
	eventually(t, "an expired token", func() error { return o.calls.wantOutcome("503 StandbyError", o.imported[len(o.imported)-1].by) })
	o.activating = time.Now()
	o.switchTo(t, "activate", "activated")
	o.activated = time.Now()
	eventually(t, "refreshes of the broker", func() error { return o.refreshed(false, o.activated, 2) })

	o.leaving = time.Now()
	o.switchTo(t, "standby", "put into standby")
	o.left = time.Now()
	o.old.load(t, o.export(t))
	o.imported = append(o.imported, handOver{o.old.table(), o.leaving})
	stopOld = o.old.run(t)
	o.importUntil(t, func() error { return o.refreshed(true, o.left, 1) })
	o.calls.stop()
	stopOld()
	t.Logf("it took %v", time.Since(begun).Round(time.Second))

	o.wantExplained(t)
	if err := o.old.refreshAll(2 * overlapLifetime); err != nil {
		t.Errorf("the old system lost a grant: %v", err)
	}
	o.wantNoGrantLost(t)
}

// importUntil imports the table again and again until done returns nil.
func (o *overlap) importUntil(t *testing.T, done func() error) {
	t.Helper()
	eventually(t, "the end of the overlap", func() error {
		o.importTable(t)
		time.Sleep(overlapLifetime / 10)
		return done()
	})
}

// importTable imports a dump of the old system's table, in standby.
func (o *overlap) importTable(t *testing.T) {
	t.Helper()
	rows := o.old.table()
	writeFile(t, o.file, dumpOf(t, rows))
	out, err := o.runImport("--to", o.processes[0].apiURL(""), "--standby")
	if got := total.FindStringSubmatch(out); err != nil || got == nil || got[4] != "0" {
		t.Errorf("import: %v\n%s", err, out)
		return
	}
	o.imported = append(o.imported, handOver{rows, time.Now()})
}

// runImport runs the command import on the dump.
func (o *overlap) runImport(args ...string) (string, error) {
	cmd := o.command(append(append([]string{
		"import", "--app", application, "--consumer", "{customer}", "--map", "provider=connector", "--connector", "acme=" + acme,
		"--map", "access=credentials.access_token", "--map", "refresh=credentials.refresh_token", "--map", "expires=credentials.expires_at",
	}, args...), o.file)...)
	cmd.Env = append(cmd.Env, "TOKEN_BROKER_API_KEY="+o.apiKey)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// verifyTable checks that the broker has what the last dump has.
func (o *overlap) verifyTable(t *testing.T) {
	t.Helper()
	canonical := filepath.Join(t.TempDir(), "canonical.ndjson")
	if out, err := o.runImport("--rows-to", canonical); err != nil {
		t.Fatalf("import --rows-to: %v\n%s", err, out)
	}
	cmd := o.command("verify", "--to", o.processes[0].apiURL(""), "--app", application, canonical)
	cmd.Env = append(cmd.Env, "TOKEN_BROKER_API_KEY="+o.apiKey)
	want := fmt.Sprintf("%d rows: %[1]d same, 0 different, 0 missing", overlapConnections)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), want) {
		t.Errorf("verify: %v\n%s\nwant %s", err, out, want)
	}
}

// switchTo runs `token-broker activate` or `token-broker standby`.
func (o *overlap) switchTo(t *testing.T, verb, changed string) {
	t.Helper()
	out, err := o.processes[0].switchAll(t, verb, "--connector", acme)
	if want := fmt.Sprintf("%d connections %s, 0 were", overlapConnections, changed); err != nil || !strings.Contains(out, want) {
		t.Errorf("%s: %v\n%s\nwant %s", verb, err, out, want)
	}
}

// refreshed returns an error unless each customer's tokens were refreshed so often since then, by
// the old system or by the broker.
func (o *overlap) refreshed(byOld bool, since time.Time, times int) error {
	for _, customer := range o.customers {
		done := 0
		for _, r := range o.provider.TokenRequests(customer) {
			if r.Granted && (r.Source == oldSource) == byOld && r.Arrived.After(since) {
				done++
			}
		}
		if done < times {
			return fmt.Errorf("%s was refreshed %d times, want %d", customer, done, times)
		}
	}
	return nil
}

// wantNoGrantLost checks that each refresh token was sent once, and by the system whose turn it was.
func (o *overlap) wantNoGrantLost(t *testing.T) {
	t.Helper()
	if reuses, revoked := o.provider.Reuses(), o.provider.Revoked(); reuses != 0 || len(revoked) != 0 {
		t.Errorf("the OAuth server saw %d reuses of a refresh token, and was asked to revoke %v", reuses, revoked)
	}
	for _, customer := range o.customers {
		for i, r := range o.provider.TokenRequests(customer) {
			if r.Refresh.Number != i || !r.Granted || !r.Delivered {
				t.Errorf("%s: token request %d is %+v, want refresh token %[2]d to be granted", customer, i, r)
			}
			byBroker, before := r.Source != oldSource, r.Answered.Before(o.activating)
			if after := r.Arrived.After(o.left); byBroker == (before || after) {
				t.Errorf("%s: token request %+v between %v and %v, in which the broker refreshes", customer, r, o.activating, o.left)
			}
		}
	}
}
