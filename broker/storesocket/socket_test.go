//go:build unix

package storesocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func keyOf(consumer string) record.Key {
	return record.Key{Application: "app", Consumer: consumer, Connector: connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}}
}

func newRecord(consumer string) *record.Record {
	return &record.Record{
		Key: keyOf(consumer), Settings: map[string]any{"<": "é"},
		Credentials: &record.Credentials{AccessToken: secret.New("secret of " + consumer)},
	}
}

// privateDir returns a directory of this user alone, with a path of a length.
func privateDir(t *testing.T, length int) string {
	t.Helper()
	dir := t.TempDir()
	if missing := length - len(dir) - 1; missing > 0 {
		dir = filepath.Join(dir, strings.Repeat("d", missing))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// serve serves a store until the test ends, and returns its log.
func serve(t *testing.T, dir string, store record.Store) *brokertest.Log {
	t.Helper()
	log := &brokertest.Log{}
	s, err := Serve(dir, store, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(dir, Name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	})
	return log
}

func dial(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestTheStoreIsTheSameThroughTheSocket(t *testing.T) {
	t.Parallel()
	var served brokertest.MemStore
	dir := privateDir(t, 0)
	serve(t, dir, &served)
	s := dial(t, dir)
	rev, err := s.Save(t.Context(), newRecord("ann"), 0)
	if err != nil {
		t.Fatal(err)
	}
	got, loaded, err := s.Load(t.Context(), keyOf("ann"))
	if err != nil || loaded != rev {
		t.Fatalf("revision %d, %v; want %d", loaded, err, rev)
	}
	a, _ := record.Encode(got)
	if b, err := record.Encode(newRecord("ann")); err != nil || !bytes.Equal(a, b) {
		t.Errorf("got %s, want %s, %v", a, b, err)
	}
	if _, err := s.Save(t.Context(), newRecord("ann"), 0); !errors.Is(err, record.ErrConflict) {
		t.Errorf("a stale save: %v, want ErrConflict", err)
	}
	if _, err := s.Save(t.Context(), newRecord("ann"), rev); err != nil {
		t.Error(err)
	}
	if _, _, err := s.Load(t.Context(), keyOf("bob")); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("no record: %v, want ErrNotFound", err)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Delete(t.Context(), keyOf("ann")); !errors.Is(err, record.ErrStoreUnavailable) {
		t.Errorf("a deletion: %v", err)
	}
}

func TestListsAreStreamed(t *testing.T) {
	t.Parallel()
	var served brokertest.MemStore
	for i := range 500 {
		if _, err := served.Save(t.Context(), newRecord(strconv.Itoa(i)), 0); err != nil {
			t.Fatal(err)
		}
	}
	dir := privateDir(t, 0)
	serve(t, dir, &served)
	s := dial(t, dir)
	for application, want := range map[string]int{"": 500, "app": 500, "other": 0} {
		n := 0
		for key, err := range s.List(t.Context(), application, "") {
			if err != nil || key.Application != "app" {
				t.Fatal(key, err)
			}
			n++
		}
		if n != want {
			t.Errorf("application %q: %d keys, want %d", application, n, want)
		}
	}
	for _, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Error(err)
		}
		break // the rest is not read
	}
}

// A list that ends early must not look like a short one.
func TestAListThatIsCutOffIsAnError(t *testing.T) {
	t.Parallel()
	broken := &brokertest.MemStore{Fail: func(op string, _ record.Key) error {
		if op == brokertest.OpList {
			return fmt.Errorf("%w: no disk", record.ErrStoreUnavailable)
		}
		return nil
	}}
	dir := privateDir(t, 0)
	serve(t, dir, broken)
	for key, err := range dial(t, dir).List(t.Context(), "", "") {
		if !errors.Is(err, record.ErrStoreUnavailable) || !strings.Contains(err.Error(), "no disk") {
			t.Errorf("got %v, %v", key, err)
		}
	}
	for key, err := range dial(t, dir).List(cancelled(t), "", "") {
		if !errors.Is(err, record.ErrStoreUnavailable) {
			t.Errorf("got %v, %v", key, err)
		}
	}
}

func cancelled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func TestManyRequestsAtATime(t *testing.T) {
	t.Parallel()
	var served brokertest.MemStore
	dir := privateDir(t, 0)
	serve(t, dir, &served)
	s := dial(t, dir)
	var group sync.WaitGroup
	for i := range 64 {
		group.Go(func() {
			rec := newRecord(strconv.Itoa(i))
			if _, err := s.Save(context.Background(), rec, 0); err != nil {
				t.Error(err)
			}
			if got, _, err := s.Load(context.Background(), rec.Key); err != nil || got.Credentials.AccessToken.Reveal() != "secret of "+strconv.Itoa(i) {
				t.Error(got, err)
			}
		})
	}
	group.Wait()
}

func TestADirectoryWithALongPathIsServed(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has shorter paths of a file")
	}
	var served brokertest.MemStore
	dir := privateDir(t, 180)
	serve(t, dir, &served)
	if err := dial(t, dir).Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestASocketThatWasLeftBehindIsNotServed(t *testing.T) {
	t.Parallel()
	dir := privateDir(t, 0)
	if _, err := Dial(t.Context(), dir); !errors.Is(err, ErrNotServed) {
		t.Errorf("without a socket: %v", err)
	}
	listener, err := listen(filepath.Join(dir, Name))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(filepath.Join(dir, Name), 0o600), listener.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(t.Context(), dir); !errors.Is(err, ErrNotServed) {
		t.Errorf("with the socket of a process that has ended: %v", err)
	}
	var served brokertest.MemStore
	serve(t, dir, &served) // takes its place
	if err := dial(t, dir).Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestADirectoryThatOthersCanEnterIsNotServed(t *testing.T) {
	t.Parallel()
	for _, mode := range []os.FileMode{0o755, 0o710, 0o701} {
		dir := privateDir(t, 0)
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Serve(dir, &brokertest.MemStore{}, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrUnsafe) {
			t.Errorf("mode %v: %v, want ErrUnsafe", mode, err)
		}
	}
}

func TestASocketThatOthersCouldHaveMadeIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(dir, path string) error{
		"others can use it":    func(_, path string) error { return os.Chmod(path, 0o666) },
		"its group can use it": func(_, path string) error { return os.Chmod(path, 0o660) },
		"others can enter":     func(dir, _ string) error { return os.Chmod(dir, 0o711) },
		"it is another's":      func(_, path string) error { return os.Chown(path, 1, -1) },
		"its directory is":     func(dir, _ string) error { return os.Chown(dir, 1, -1) },
		"both are":             func(dir, path string) error { return errors.Join(os.Chown(dir, 1, -1), os.Chown(path, 1, -1)) },
		"it is a file": func(_, path string) error {
			return errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600))
		},
		"it is a link": func(dir, path string) error {
			return errors.Join(os.Rename(path, path+".other"), os.Symlink(path+".other", path))
		},
	} {
		dir := privateDir(t, 0)
		serve(t, dir, &brokertest.MemStore{})
		if err := change(dir, filepath.Join(dir, Name)); err != nil {
			t.Logf("%s: cannot be tried by this user: %v", name, err)
			continue
		}
		if s, err := Dial(t.Context(), dir); !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: %v, %v; want ErrUnsafe", name, s, err)
		}
	}
}

func FuzzRequests(f *testing.F) {
	f.Add(pathLoad, []byte(`{"key":{"application":"app","consumer":"ann","unified_api":"crm","service_id":"acme"}}`))
	f.Add(pathSave, []byte(`{"key":{"application":"app"},"revision":1,"record":{"format":1}}`))
	f.Add(pathList, []byte(`{"key":{}}`))
	f.Add(pathCheck, []byte(`{`))
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		var served brokertest.MemStore
		if _, err := served.Save(t.Context(), newRecord("ann"), 0); err != nil {
			t.Fatal(err)
		}
		req := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		req.URL.Path = "/" + strings.TrimPrefix(path, "/")
		w := httptest.NewRecorder()
		newHandler(&served).ServeHTTP(w, req)
		if w.Code == http.StatusInternalServerError {
			t.Errorf("got %d", w.Code)
		}
	})
}
