package tests

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// An upgrade and a downgrade keep every connection.
func TestStoreOfAnotherReleaseIsUsed(t *testing.T) {
	inBothDirections(t, func(t *testing.T, writer, reader string) {
		inEveryStore(t, func(t *testing.T, d *deployment) {
			d.binary = writer
			p := d.start(t)
			written := d.fillStore(t, p)
			p.stop(t)
			d.provider.OnToken(nil)

			d.binary = reader
			p = d.start(t)
			for path, want := range written {
				if got := string(p.api(t, http.MethodGet, path.path, path.consumer, "").body); got != want {
					t.Errorf("%s of %s was %s and is now %s", path.path, path.consumer, want, got)
				}
			}
			d.wantUnbroken(t, p, "fresh", 0)
			d.wantUnbroken(t, p, "refreshed", 1)
			wantNeedsAuth(t, p.call(t, "/acme/contacts", "dead"))
			p.call(t, "/acme/contacts", "disabled").wantError(t, http.StatusForbidden, "ConnectorDisabledError")
			p.get(t, acme, "deleted").wantError(t, http.StatusNotFound, "ConnectionNotFoundError")
			for _, path := range []string{"/keyed/open/things", "/machine/things", "/quickbooks/open/things"} {
				if got := p.call(t, path, "fresh"); got.status != http.StatusOK {
					t.Errorf("%s = %v, want 200", path, got)
				}
			}
			eventually(t, "a refresh", func() error { // first the pause after the failure must end
				if got := p.call(t, "/acme/contacts", "stale"); got.status != http.StatusOK {
					return errors.New(got.String())
				}
				return nil
			})
			d.wantUnbroken(t, p, "stale", 1)
			p.api(t, http.MethodPatch, "connections/"+keyed, "fresh", `{"settings": {"team": "b"}}`).connection(t)
			p.stop(t)

			d.binary = writer // it must read what the other has written
			p = d.start(t)
			d.wantUnbroken(t, p, "stale", 1)
			d.wantUnbroken(t, p, "refreshed", 1)
			if got := p.get(t, keyed, "fresh").connection(t); got.Settings["team"] != "b" {
				t.Errorf("the settings are %v, want those of the update", got.Settings)
			}
		})
	})
}

// A resource is a path of the connections API, for a consumer.
type resource struct{ path, consumer string }

// fillStore stores a connection of each kind and returns the API's responses about them.
// Afterwards the token endpoint fails, so that the connection of the consumer "stale" is not
// refreshed yet.
func (d *deployment) fillStore(t *testing.T, p *process) map[resource]string {
	t.Helper()
	p.importTokens(t, acme, "fresh", d.provider.Login(t, "fresh", 0))
	p.importBody(t, keyed, "fresh", `{"settings": {"api_key": "the-key", "team": "a"}, "metadata": {"plan": "gold"}}`).connection(t)
	p.importBody(t, machine, "fresh", `{}`).connection(t)
	login := d.provider.Login(t, "fresh-books", 0)
	p.importBody(t, quickbooks, "fresh", tokensBody(t, login, map[string]any{"realm_id": "4711"})).connection(t)
	p.importTokens(t, acme, "refreshed", d.expired(t, "refreshed"))
	d.wantUnbroken(t, p, "refreshed", 1)
	p.importTokens(t, acme, "disabled", d.provider.Login(t, "disabled", 0))
	p.api(t, http.MethodPatch, "connections/"+acme, "disabled", `{"enabled": false}`).connection(t)
	p.importTokens(t, acme, "deleted", d.provider.Login(t, "deleted", 0))
	if got := p.api(t, http.MethodDelete, "connections/"+acme, "deleted", ""); got.status != http.StatusNoContent {
		t.Fatalf("a deletion = %v, want 204", got)
	}
	dead := d.expired(t, "dead")
	d.provider.Revoke(t, "dead")
	p.importTokens(t, acme, "dead", dead)
	wantNeedsAuth(t, p.call(t, "/acme/contacts", "dead"))
	if got := p.call(t, "/machine/things", "fresh"); got.status != http.StatusOK {
		t.Fatalf("a call = %v, want 200", got)
	}
	responses := make(map[resource]string)
	for _, r := range []resource{
		{"connections", "fresh"},
		{"connections", "deleted"},
		{"connections/" + acme, "fresh"},
		{"connections/" + keyed, "fresh"},
		{"connections/" + machine, "fresh"},
		{"connections/" + quickbooks, "fresh"},
		{"connections/" + acme, "refreshed"},
		{"connections/" + acme, "disabled"},
	} {
		got := p.api(t, http.MethodGet, r.path, r.consumer, "")
		if got.status != http.StatusOK {
			t.Fatalf("%s of %s = %v, want 200", r.path, r.consumer, got)
		}
		responses[r] = string(got.body)
	}
	d.provider.OnToken(oauthserver.Fail(http.StatusServiceUnavailable, "text/plain", "busy"))
	p.importTokens(t, acme, "stale", d.expired(t, "stale"))
	d.awaitRefreshes(t, "stale", 1)
	return responses
}

// A process crashes while its journal holds a token response that the store did not accept.
// Another release reads the journal and saves the response, in each of the stores.
func TestJournalOfAnotherReleaseIsRead(t *testing.T) {
	inBothDirections(t, func(t *testing.T, writer, reader string) {
		t.Run("vault", func(t *testing.T) {
			t.Parallel()
			j := newJournalScene(t, writer)
			j.network.pass()
			j.wantRead(t, j.deployment, reader)
		})
		t.Run("embedded", func(t *testing.T) {
			t.Parallel()
			j := newJournalScene(t, writer)
			d := *j.deployment
			dir := filepath.Join(d.dir, "store")
			d.storage = "storage embedded " + dir + "\njournal " + j.dir
			d.isShared = false
			d.binary = writer
			// This store gets the connection as it was before that response.
			d.provider.OnToken(oauthserver.Fail(http.StatusServiceUnavailable, "text/plain", "busy"))
			p := d.start(t)
			p.importTokens(t, acme, consumer, j.login)
			d.awaitRefreshes(t, consumer, 2) // the first is the one whose response is in the journal
			p.stop(t)
			d.provider.OnToken(nil)
			j.moveEntries(t, "embedded:"+dir)
			j.wantRead(t, &d, reader)
		})
	})
}

// A journalScene is a process that has crashed with a token response in its journal.
type journalScene struct {
	*deployment
	network *relay // between the process and Vault
	dir     string // the journal's directory, with a subdirectory for each store
	login   oauthserver.Tokens
}

func newJournalScene(t *testing.T, writer string) *journalScene {
	t.Helper()
	server := vaulttest.Shared(t)
	d := newDeployment(t, oauthserver.Config{}).onVault(t, server)
	j := &journalScene{deployment: d, network: newRelay(t, server.Addr), dir: filepath.Join(d.dir, "journal")}
	d.vaultBlock(j.network.addr, "secret")
	d.storage += "\njournal " + j.dir
	d.binary = writer
	p := d.start(t)
	gate := d.provider.HoldToken(t)
	j.login = d.expired(t, consumer)
	p.importTokens(t, acme, consumer, j.login)
	gate.Await(t)
	j.network.refuse()
	gate.Open()
	eventually(t, "the journal", func() error {
		if !strings.Contains(p.log.String(), "the store did not take a refreshed token") {
			return errors.New("the log does not mention it")
		}
		// The token is served from memory once it is in the journal.
		got, err := p.tryCall("/acme/contacts", consumer)
		if err == nil && got.status != http.StatusOK {
			err = errors.New(got.String())
		}
		return err
	})
	p.kill(t)
	d.provider.OnToken(nil)
	j.wantFiles(t, 1)
	return j
}

// moveEntries moves the entries of the journal to another store's directory.
func (j *journalScene) moveEntries(t *testing.T, store string) {
	t.Helper()
	folders, err := filepath.Glob(filepath.Join(j.dir, "*"))
	sum := sha256.Sum256([]byte(store))
	own := filepath.Join(j.dir, hex.EncodeToString(sum[:8]))
	folders = slices.DeleteFunc(folders, func(folder string) bool { return folder == own })
	if err != nil || len(folders) != 1 {
		t.Fatalf("the journal contains %q, %v; want one directory of another store", folders, err)
	}
	if err := errors.Join(os.RemoveAll(own), os.Rename(folders[0], own)); err != nil {
		t.Fatal(err)
	}
}

// wantRead checks that a release saves the token response in the journal, and does not send the
// refresh token again.
func (j *journalScene) wantRead(t *testing.T, d *deployment, reader string) {
	t.Helper()
	redeemed := d.provider.Redeemed(consumer, 0)
	d.binary = reader
	p := d.start(t)
	eventually(t, "a call", func() error {
		got, err := p.tryCall("/acme/contacts", consumer)
		if err == nil && got.status != http.StatusOK {
			err = errors.New(got.String())
		}
		return err
	})
	d.wantUnbroken(t, p, consumer, 1)
	if got := d.provider.Redeemed(consumer, 0); got != redeemed {
		t.Errorf("the refresh token was sent %d more times, want none: the response is in the journal", got-redeemed)
	}
	p.stop(t)
	j.wantFiles(t, 0)
}

var journalFile = regexp.MustCompile(`^[0-9a-f]{16}/journal-[^/]+\.log$`)

// wantFiles checks that the journal has a number of files with entries, and keys.
func (j *journalScene) wantFiles(t *testing.T, entries int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(j.dir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	logs, keys := 0, 0
	for _, file := range files {
		switch name, _ := filepath.Rel(j.dir, file); {
		case filepath.Base(name) == "key.json":
			keys++
		case journalFile.MatchString(filepath.ToSlash(name)):
			logs++
		default:
			t.Errorf("the journal contains %s", name)
		}
	}
	if logs != entries || keys == 0 {
		t.Errorf("the journal contains %q, want %d logs and a key", files, entries)
	}
}

// Configurations of the previous release keep their meaning.
func TestConfigurationsOfThePreviousReleaseMeanTheSame(t *testing.T) {
	t.Parallel()
	before := previous(t)
	d := &deployment{dir: t.TempDir()}
	d.env = []string{
		"CATALOG=" + t.TempDir(), "CA=" + writeCertificate(t, d.dir), "SECRET=a-secret-of-some-length", "OTHER_SECRET=another-secret-as-long",
	}
	for name, caddyfile := range configurations(t, before) {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "Caddyfile")
			writeFile(t, path, caddyfile)
			want, err := d.commandOf(before.binary, "adapt", "--config", path).Output()
			if err != nil {
				t.Fatalf("the previous release cannot adapt it: %v", err)
			}
			got, err := d.commandOf(binary, "adapt", "--config", path).Output()
			if err != nil || !sameJSON(t, got, want) {
				t.Errorf("adapt: %v\n%s\nwant, as before,\n%s", err, got, want)
			}
			adapted := path + ".json"
			writeFile(t, adapted, string(want))
			if out, err := d.commandOf(before.binary, "validate", "--config", adapted).CombinedOutput(); err != nil {
				if name == "maximal.caddyfile" || name == "Caddyfile.example" {
					t.Errorf("the previous release does not accept it: %v\n%s", err, out)
				}
				return // it names files of other machines
			}
			if out, err := d.commandOf(binary, "validate", "--config", adapted).CombinedOutput(); err != nil {
				t.Errorf("this release does not accept it: %v\n%s", err, out)
			}
		})
	}
}

// configurations returns Caddyfiles for the release, by name: its example, those of its own
// tests, and one with every option.
func configurations(t *testing.T, r release) map[string]string {
	t.Helper()
	found := map[string]string{
		"Caddyfile.example": readFile(t, filepath.Join(r.source, "Caddyfile.example")),
		"maximal.caddyfile": readFromRoot(t, "tests/testdata/maximal.caddyfile"),
	}
	files, err := filepath.Glob(filepath.Join(r.source, "caddymodule", "testdata", "*.caddyfiletest"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the test files of the release are %q, %v; want some", files, err)
	}
	for _, file := range files {
		caddyfile, _, _ := strings.Cut(readFile(t, file), "\n----------\n")
		found[filepath.Base(file)] = caddyfile
	}
	return found
}

// sameJSON reports whether two JSON documents mean the same: members of objects have no
// order (RFC 8259 section 4).
func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var values [2]any
	for i, text := range [][]byte{a, b} {
		if err := json.Unmarshal(text, &values[i]); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	return reflect.DeepEqual(values[0], values[1])
}

// writeCertificate writes a certificate and returns its path.
func writeCertificate(t *testing.T, dir string) string {
	t.Helper()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	path := filepath.Join(dir, "ca.pem")
	writeFile(t, path, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	return path
}

// Configurations refer to modules by name, so none may be missing or renamed.
func TestModulesOfThePreviousReleaseStillExist(t *testing.T) {
	t.Parallel()
	before := previous(t)
	d := &deployment{dir: t.TempDir()}
	modules := func(binary string) map[string]bool {
		out, err := d.commandOf(binary, "list-modules").Output()
		if err != nil {
			t.Fatal(err)
		}
		listed := make(map[string]bool)
		for line := range strings.Lines(string(out)) {
			// All others are standard modules of that release's Caddy.
			if name := strings.TrimSpace(line); strings.Contains(name, "token_broker") || slices.Contains(ownHandlers, name) {
				listed[name] = true
			}
		}
		return listed
	}
	want, got := modules(before.binary), modules(binary)
	if len(want) < len(ownHandlers)+1 || !maps.Equal(got, want) {
		t.Errorf("the modules are %v, want those of the previous release, %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

// ownHandlers are the modules of the token broker whose names do not contain its name.
var ownHandlers = []string{"http.handlers.connections_api", "http.handlers.downstream_proxy", "http.handlers.sandbox_provider"}
