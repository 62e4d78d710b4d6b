package tests

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// config writes the deployment's configuration to a file, for commands, and returns its path.
func (d *deployment) config(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "Caddyfile")
	writeFile(t, path, d.caddyfile(t, ports{freePort(t), freePort(t), freePort(t)}))
	return path
}

// mustRun runs a command of the binary, and returns what it says.
func (d *deployment) mustRun(t testing.TB, args ...string) string {
	t.Helper()
	out, err := d.command(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// export exports all connections in clear text, and returns the file.
func (d *deployment) export(t testing.TB, args ...string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "export.ndjson")
	d.mustRun(t, append([]string{"export", "--config", d.config(t), "--plaintext", "--out", file}, args...)...)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v; want 0600", info.Mode(), err)
	}
	return []byte(readFile(t, file))
}

// An export is imported into an empty store, which then exports the same, byte for byte.
func TestExportWipeImportKeepsTheRows(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		for _, customer := range []string{consumer, "Zoë & co", "b"} {
			p.importTokens(t, acme, customer, d.provider.Login(t, customer, 0))
		}
		p.importBody(t, keyed, consumer, `{"settings": {"api_key": "a-key"}, "metadata": {"n": 1.50, "<>": ["é\u2028"]}}`)
		p.importBody(t, machine, consumer, `{"metadata": {"of": "a machine"}}`)
		p.importBody(t, acme, "deleted", tokensBody(t, d.provider.Login(t, "deleted", 0), nil))
		p.api(t, http.MethodDelete, "connections/"+acme, "deleted", "")

		rows := d.export(t) // of an embedded store, through the process
		if n := bytes.Count(rows, []byte("\n")); n != 5 {
			t.Fatalf("there are %d rows, want 5:\n%s", n, rows)
		}
		p.stop(t)
		if again := d.export(t); !bytes.Equal(rows, again) {
			t.Errorf("without a process the export is\n%s\nwant\n%s", again, rows)
		}

		if d.isShared {
			d.storage = strings.Replace(d.storage, d.vaultPrefix(), d.vaultPrefix()+"-wiped", 1)
		} else {
			d.storage = "storage embedded " + filepath.Join(d.dir, "wiped")
		}
		p = d.start(t)
		file := filepath.Join(t.TempDir(), "rows.ndjson")
		writeFile(t, file, string(rows))
		report := d.mustRun(t, "import", "--to", p.apiURL(""), "--app", application, "--key-file", filepath.Join(d.dir, "api-key"), file)
		if got := sums(t, report); got != [4]int{5} {
			t.Errorf("the import says\n%s\nwant 5 connections created", report)
		}
		if again := d.export(t, "--no-standby"); !bytes.Equal(rows, again) {
			t.Errorf("after an import the export is\n%s\nwant\n%s", again, rows)
		}
		d.wantUnbroken(t, p, consumer, 0)
	})
}

// copying is a deployment with an embedded store that is to move to Vault.
func copying(t *testing.T, customers ...string) (old, next *deployment, p *process) {
	t.Helper()
	old = newDeployment(t, oauthserver.Config{}).onDisk()
	moved := *old
	next = moved.onVault(t, vaulttest.Shared(t))
	p = old.start(t)
	for _, customer := range customers {
		p.importTokens(t, acme, customer, old.provider.Login(t, customer, 0))
	}
	return old, next, p
}

func customersOf(n int) (customers []string) {
	for i := range n {
		customers = append(customers, fmt.Sprintf("customer-%d", i))
	}
	return customers
}

// The connections move from the embedded store to Vault while calls go on: no answer is an error, and
// no grant is lost. Caddy may close connections without an answer when it is reloaded.
func TestStoreCopyMovesConnectionsUnderCalls(t *testing.T) {
	t.Parallel()
	customers := customersOf(10)
	old, next, p := copying(t, customers...)
	stop := make(chan struct{})
	var loaded atomic.Bool
	var callers sync.WaitGroup
	for _, customer := range customers {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				got, err := p.tryCall("/acme/contacts", customer)
				if err != nil && loaded.Load() {
					continue
				}
				if err != nil || got.status != http.StatusOK {
					t.Errorf("a call of %s = %v, %v", customer, got, err)
					return
				}
			}
		})
	}
	out := old.mustRun(t, "store", "copy", "--from", old.config(t), "--to", next.config(t))
	if !strings.Contains(out, "10 connections copied, 0 there already, 0 deleted ones; 10 put into standby") || !strings.Contains(out, "has all 10 records") {
		t.Errorf("got %s", out)
	}
	loaded.Store(true)
	p.load(t, next.caddyfile(t, p.ports))
	for _, customer := range customers { // a refresh in the new store
		if state := p.validate(t, acme, customer); state != "callable" {
			t.Errorf("%s is %s", customer, state)
		}
	}
	close(stop)
	callers.Wait()
	for _, customer := range customers {
		if got := old.provider.TokenRequests(customer); len(got) != 1 {
			t.Errorf("%s: %d token requests, want 1", customer, len(got))
		}
		if got := p.generationOf(t, "/acme/contacts", customer); got != 1 {
			t.Errorf("%s has token %d, want 1", customer, got)
		}
	}
}

// killed runs a command and kills it after a while. It reports whether the command was faster.
func (d *deployment) killed(t *testing.T, after time.Duration, args ...string) (ended bool) {
	t.Helper()
	cmd := d.command(args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, &out)
		}
		return true
	case <-time.After(after):
		_ = cmd.Process.Kill() // it may have ended
		return <-done == nil
	}
}

// killedAtEveryMoment runs a command again and again until it has once ended by itself. Each time it
// is killed a little later.
func (d *deployment) killedAtEveryMoment(t *testing.T, check func(), args ...string) {
	t.Helper()
	kills := 0
	for after := 100 * time.Millisecond; !d.killed(t, after, args...); after += after / 8 {
		kills++
		check()
	}
	t.Logf("killed %d times", kills)
}

func TestStoreCopySurvivesKills(t *testing.T) {
	t.Parallel()
	customers := customersOf(60)
	old, next, p := copying(t, customers...)
	args := []string{"store", "copy", "--from", old.config(t), "--to", next.config(t)}
	old.killedAtEveryMoment(t, func() {
		if got := p.call(t, "/acme/contacts", customers[0]); got.status != http.StatusOK {
			t.Errorf("a call = %v, want 200", got)
		}
	}, args...)
	if out := old.mustRun(t, args...); !strings.Contains(out, "0 connections copied, 60 there already, 0 deleted ones; 0 put into standby") {
		t.Errorf("got %s", out)
	}
	p.stop(t)
	p = next.start(t)
	for _, customer := range customers[:5] {
		next.wantUnbroken(t, p, customer, 0)
		if state := p.validate(t, acme, customer); state != "callable" {
			t.Errorf("%s is %s", customer, state)
		}
	}
}

func TestStoreRekeySurvivesKills(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, oauthserver.Config{}).onDisk()
	p := d.start(t)
	for _, customer := range customersOf(60) {
		p.importTokens(t, acme, customer, d.provider.Login(t, customer, 0))
	}
	p.stop(t)
	key := filepath.Join(d.dir, "data", "caddy", "token-broker", "key.json")
	old := readFile(t, key)
	config := d.config(t)
	d.killedAtEveryMoment(t, func() {
		if out := d.mustRun(t, "store", "check", "--config", config); !strings.Contains(out, ": 60 connections can be read") {
			t.Errorf("got %s", out)
		}
	}, "store", "rekey", "--config", config)
	if readFile(t, key) == old {
		t.Error("the key is the old one")
	}
	p = d.start(t)
	d.wantUnbroken(t, p, "customer-0", 0)
	if state := p.validate(t, acme, "customer-0"); state != "callable" {
		t.Errorf("customer-0 is %s", state)
	}
	p.kill(t)
	writeFile(t, key, old)
	if out, err := d.command("store", "check", "--config", config).CombinedOutput(); err == nil || !strings.Contains(string(out), "was not encrypted with") {
		t.Errorf("with the old key: %v\n%s", err, out)
	}
}

// The running process serves its store to its own user, as long as nobody else could.
func TestExportRefusesASocketThatOthersCanUse(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, oauthserver.Config{}).onDisk()
	p := d.start(t)
	p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 0))
	socket := filepath.Join(d.dir, "data", "caddy", "token-broker", "operator.sock")
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v, %v; want 0600", info.Mode(), err)
	}
	for path, mode := range map[string]os.FileMode{socket: 0o660, filepath.Dir(socket): 0o711} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "export.ndjson")
		out, err := d.command("export", "--config", d.config(t), "--plaintext", "--out", file).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "must have 0600 and 0700") {
			t.Errorf("%s: %v\n%s", path, err, out)
		}
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("there is a file: %v", err)
		}
		if err := os.Chmod(path, info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
	d.export(t)
	p.stop(t)
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}
