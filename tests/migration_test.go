package tests

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// noProvider: no token of a migration is refreshed.
var noProvider = oauthserver.Config{}

// migrationRows is how many rows are imported. TOKEN_BROKER_IMPORT_ROWS sets more.
func migrationRows(t *testing.T) int {
	t.Helper()
	text := os.Getenv("TOKEN_BROKER_IMPORT_ROWS")
	if text == "" {
		return 2000
	}
	rows, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// migrationFormats are those whose import is crashed. TOKEN_BROKER_IMPORT_FORMATS chooses others,
// separated by commas; "all" stands for all of them.
func migrationFormats() []string {
	switch text := os.Getenv("TOKEN_BROKER_IMPORT_FORMATS"); text {
	case "":
		return []string{"canonical"}
	case "all":
		var names []string
		for _, format := range transfer.Formats() {
			names = append(names, format.Name)
		}
		return names
	default:
		return strings.Split(text, ",")
	}
}

// A batchRelay is between the command and the broker, and counts batches.
type batchRelay struct {
	*httptest.Server
	mu      sync.Mutex
	batches int                  // guarded by mu
	arrived func(batch int) bool // guarded by mu; see onBatch
}

// onBatch makes the relay call arrived with each batch that the broker has answered, before the
// command gets the answer. It reports whether the command gets it.
func (r *batchRelay) onBatch(arrived func(batch int) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.arrived = arrived
}

func newBatchRelay(t *testing.T, target string) *batchRelay {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	r := &batchRelay{}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport = &http.Transport{DisableKeepAlives: true}
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	proxy.ModifyResponse = func(*http.Response) error {
		r.mu.Lock()
		r.batches++
		batch, arrived := r.batches, r.arrived
		r.mu.Unlock()
		if arrived != nil && !arrived(batch) {
			return errors.New("the answer is lost")
		}
		return nil
	}
	r.Server = httptest.NewServer(proxy)
	t.Cleanup(r.Close)
	return r
}

// TestAnImportSurvivesCrashes kills the command after the broker has stored a batch, and before
// the command knows that. The same command goes on. Then the broker is killed, and comes back.
// Each row is stored, and the report is exact.
func TestAnImportSurvivesCrashes(t *testing.T) {
	for _, format := range migrationFormats() {
		t.Run(format, func(t *testing.T) { testCrashes(t, format) })
	}
}

func testCrashes(t *testing.T, format string) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		ports := ports{freePort(t), freePort(t), freePort(t)}
		caddyfile := d.caddyfile(t, ports)
		p := d.runCaddyfile(t, ports, caddyfile)
		p.awaitReady(t)
		relay := newBatchRelay(t, p.apiURL(""))
		m := newMigration(t, d, format, migrationRows(t))
		refused, stored := m.refused()
		third := len(m.kinds) / 250 / 3 // of the batches
		begun := time.Now()
		dry := sums(t, m.run(t, m.command(p.apiURL(""), "--dry-run")))
		if dry[0]+dry[1]+dry[2] != stored || dry[3] != len(refused) {
			t.Errorf("dry run: got %v, want %d stored and %d refused", dry, stored, len(refused))
		}
		t.Logf("dry run of %d rows in %s: %v", len(m.kinds), time.Since(begun).Round(time.Millisecond), dry)
		begun = time.Now()

		ctx, kill := context.WithCancel(t.Context())
		defer kill()
		planned := m.command(relay.URL, "--parallel", "2")
		killed := exec.CommandContext(ctx, planned.Path, planned.Args[1:]...)
		killed.Env, killed.Dir = planned.Env, planned.Dir
		relay.onBatch(func(batch int) bool {
			if batch == max(4, third) {
				kill() // the batch is sent again
			}
			return batch < max(4, third)
		})
		if report := m.run(t, killed); total.MatchString(report) {
			t.Fatalf("the command was not killed:\n%s", report)
		}
		relay.mu.Lock()
		before := relay.batches
		relay.mu.Unlock()

		crashed := make(chan struct{})
		relay.onBatch(func(batch int) bool {
			if batch == before+max(2, third) {
				p.signal(t, os.Kill)
				close(crashed)
			}
			return batch < before+max(2, third) || p.hasExited()
		})
		var report bytes.Buffer
		resumed := m.command(relay.URL, "--parallel", "2")
		resumed.Stdout, resumed.Stderr = &report, &report
		if err := resumed.Start(); err != nil {
			t.Fatal(err)
		}
		<-crashed
		p.awaitExit(t)
		again := d.runCaddyfile(t, ports, caddyfile)
		again.awaitReady(t)
		_ = resumed.Wait() // refused rows make it fail

		t.Logf("import with two crashes in %s", time.Since(begun).Round(time.Millisecond))
		m.wantRefused(t, m.path+".refused.ndjson")
		m.wantVerified(t, again.apiURL(""))
		got := sums(t, report.String())
		if got[0]+got[1]+got[2] != stored || got[3] != len(refused) {
			t.Errorf("got %v, want %d stored and %d refused\n%s", got, stored, len(refused), report.String())
		}
		// At most one batch of each worker was sent again, at each of the two crashes.
		if most := 4 * 250; got[2] > most {
			t.Errorf("%d rows were sent again, want at most %d", got[2], most)
		}
		if got := sums(t, m.run(t, m.command(again.apiURL("")))); got != [4]int{2: stored, 3: len(refused)} {
			t.Errorf("importing again: got %v, want all %d kept", got, stored)
		}
	})
}
