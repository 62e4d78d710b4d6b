package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// A replica is one of several machines that share a Vault. It has its own directory, network and
// ports, and runs one process at a time.
type replica struct {
	*deployment
	name    string
	source  string // identifies it to the OAuth server; see oauthserver.TokenRequest
	network *relay
	ports   ports
	timeout string // of a token request, in the Caddyfile

	mu   sync.Mutex
	p    *process          // guarded by mu; the last one started
	logs []*brokertest.Log // guarded by mu; of all its processes
}

// replicas returns replicas of a deployment with a Vault, without processes. They log
// everything of the broker, and only warnings and errors of Caddy.
func (d *deployment) replicas(t testing.TB, server *vaulttest.Server, count int, timeout string) []*replica {
	t.Helper()
	replicas := make([]*replica, count)
	for i := range replicas {
		name := string(rune('a' + i))
		own := *d
		own.dir = t.TempDir()
		own.global += "\nlog {\nlevel WARN\nexclude token_broker\n}\nlog broker {\nlevel DEBUG\ninclude token_broker\n}"
		r := &replica{
			deployment: &own, name: name, source: "from=" + name, timeout: timeout, network: newRelay(t, server.Addr),
			ports: ports{freePort(t), freePort(t), freePort(t)},
		}
		writeFile(t, own.vaultTokenPath(), server.Token+"\n")
		own.storage = fmt.Sprintf("storage vault {\n address %s\n prefix %s\n auth token {file.%s}\n}\njournal %s",
			r.network.addr, d.vaultPrefix(), own.vaultTokenPath(), filepath.Join(own.dir, "journal"))
		own.isShared = true
		replicas[i] = r
	}
	return replicas
}

// config returns the replica's Caddyfile.
func (r *replica) config(t testing.TB) string {
	t.Helper()
	const transport = "transport token_broker crm/acme {"
	return patch(t, r.caddyfile(t, r.ports),
		"timeout 30s", "timeout "+r.timeout,
		r.provider.TokenURL, r.provider.TokenURL+"?"+r.source,
		transport, transport+"\ndial_timeout 30s") // Caddy's 3 s are too short for thousands of dials at once
}

// patch replaces parts of a Caddyfile, given as pairs of old and new text.
func patch(t testing.TB, caddyfile string, oldNew ...string) string {
	t.Helper()
	for i := 0; i < len(oldNew); i += 2 {
		if !strings.Contains(caddyfile, oldNew[i]) {
			t.Fatalf("the Caddyfile does not contain %q", oldNew[i])
		}
	}
	return strings.NewReplacer(oldNew...).Replace(caddyfile)
}

// start starts a process, without waiting until it is ready.
func (r *replica) start(t testing.TB) {
	t.Helper()
	p := r.runCaddyfile(t, r.ports, r.config(t))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.p, r.logs = p, append(r.logs, p.log)
}

// process returns the last process started.
func (r *replica) process() *process {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.p
}

func (r *replica) pause(t testing.TB) { r.process().signal(t, syscall.SIGSTOP) }

func (r *replica) resume(t testing.TB) { r.process().signal(t, syscall.SIGCONT) }

func (r *replica) kill(t testing.TB) { r.process().kill(t) }

func (r *replica) awaitReady(t testing.TB) { t.Helper(); r.process().awaitReady(t) }

// reload loads the same configuration again, as soon as the process listens.
func (r *replica) reload(t testing.TB) {
	t.Helper()
	config := r.config(t)
	eventually(t, "a reload of replica "+r.name, func() error { return r.process().tryLoad(config) })
}

// load loads a configuration, even if it is the current one.
func (p *process) load(t testing.TB, caddyfile string) {
	t.Helper()
	if err := p.tryLoad(caddyfile); err != nil {
		t.Fatal(err)
	}
}

func (p *process) tryLoad(caddyfile string) error {
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	header := http.Header{"Content-Type": {"text/caddyfile"}, "Cache-Control": {"must-revalidate"}}
	got, err := try(ctx, http.MethodPost, p.adminURL("/load"), header, caddyfile)
	if err == nil && got.status != http.StatusOK {
		err = fmt.Errorf("loading a configuration = %v, want 200", got)
	}
	return err
}

// A logLine is a line in a broker's log.
type logLine struct {
	Replica    string
	At         time.Time
	Timestamp  float64 `json:"ts"` // Unix time in seconds
	Message    string  `json:"msg"`
	Connection string  `json:"connection"`
	Class      string  `json:"class"`
	Code       string  `json:"code"`
	Lease      string  `json:"lease"`
	From       string  `json:"from"`
}

// customer returns the consumer in the name of the connection.
func (l logLine) customer() string {
	parts := strings.Split(l.Connection, "/")
	if len(parts) < 2 {
		return ""
	}
	return parts[1]
}

// logged returns the log lines of all processes so far.
func (r *replica) logged() []logLine {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lines []logLine
	for _, log := range r.logs {
		for text := range strings.Lines(log.String()) {
			line := logLine{Replica: r.name}
			if json.Unmarshal([]byte(text), &line) == nil {
				line.At = time.Unix(0, int64(line.Timestamp*1e9))
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// awaitAll waits until every replica's process is ready.
func awaitAll(t testing.TB, replicas []*replica) {
	t.Helper()
	for _, r := range replicas {
		r.awaitReady(t)
	}
}

// wantGeneration waits until a call through the replica succeeds, and checks which token
// downstream got.
func (r *replica) wantGeneration(t testing.TB, customer string, generation int) {
	t.Helper()
	eventually(t, "a call through replica "+r.name, func() error {
		got, err := r.process().tryCall("/acme/contacts", customer)
		if err == nil && got.status != http.StatusOK {
			err = errors.New(got.String())
		}
		if err == nil && !strings.Contains(string(got.body), fmt.Sprintf(`"generation":%d,`, generation)) {
			t.Errorf("downstream saw %s through replica %s, want token %d", got.body, r.name, generation)
		}
		return err
	})
}

// wantTokenRequests checks how often a customer's refresh tokens were sent, and that none was
// sent again after it was spent.
func (d *deployment) wantTokenRequests(t testing.TB, customer string, count int) {
	t.Helper()
	if got := d.provider.TokenRequests(customer); len(got) != count {
		t.Errorf("token requests of %s: %+v, want %d", customer, got, count)
	}
	if got := d.provider.Reuses(); got != 0 {
		t.Errorf("the OAuth server saw %d reuses of a refresh token, want none", got)
	}
}

// expired returns the tokens of an old login, whose access token has expired.
func (d *deployment) expired(t testing.TB, customer string) oauthserver.Tokens {
	t.Helper()
	return d.provider.Login(t, customer, 2*oauthserver.DefaultLifetime)
}
