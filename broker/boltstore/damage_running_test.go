package boltstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Each page is damaged in turn while the store is open.
func TestDamageWhileTheStoreIsOpenIsFound(t *testing.T) {
	t.Parallel()
	s := soundStore(t)
	whole := s.database()
	for page := range len(bytes.TrimRight(whole, "\x00"))/pageSize + 1 {
		what := fmt.Sprintf("page %d (%s)", page, kindOf(whole, page))
		dir := s.with(t, whole)
		store := openStore(t, dir)
		overwrite(t, dir, page*pageSize, make([]byte, pageSize))
		o := outcome{lost: make(map[string]bool)}
		s.use(t, what, store, &o)
		closeStore(t, store)
		again := s.wantRight(t, what+", opened again", dir)
		if len(again.lost) > len(o.lost) {
			t.Errorf("%s: opened again, %d connections are lost, before %d", what, len(again.lost), len(o.lost))
		}
	}
}

func TestFileThatIsTakenAwayIsFound(t *testing.T) {
	t.Parallel()
	s := soundStore(t)
	for name, change := range map[string]func(path string) error{
		"cut to half": func(path string) error { return os.Truncate(path, int64(len(s.database())/2)) },
		"emptied":     func(path string) error { return os.Truncate(path, 0) },
		"removed":     os.Remove,
		"replaced": func(path string) error {
			return errors.Join(os.WriteFile(path+".new", s.database(), 0o600), os.Rename(path+".new", path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := s.with(t, s.database())
			store := openStore(t, dir)
			if err := change(filepath.Join(dir, "connections.db")); err != nil {
				t.Fatal(err)
			}
			o := outcome{lost: make(map[string]bool)}
			s.use(t, name, store, &o)
			if o.saved > 0 {
				t.Errorf("%d changes were taken, which are lost with the process", o.saved)
			}
			if err := store.Check(t.Context()); !errors.Is(err, record.ErrStoreUnavailable) || !errors.Is(err, boltstore.ErrDamaged) {
				t.Errorf("Check = %v, want ErrDamaged", err)
			}
			closeStore(t, store)
		})
	}
}

func TestDamageIsLoggedOnceAndReportedByCheck(t *testing.T) {
	t.Parallel()
	dir := storeWithRecord(t)
	var log lines
	store, err := boltstore.Open(t.Context(), boltstore.Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, store)
	if err := store.Check(t.Context()); err != nil {
		t.Errorf("Check = %v, want nil", err)
	}
	b := readFile(t, filepath.Join(dir, "connections.db"))
	name := []byte("hubspot\x00\x01") // the record follows it
	for at := bytes.Index(b, name); at >= 0; at = bytes.Index(b, name) {
		overwrite(t, dir, at+len(name)+20, []byte("damaged"))
		clear(b[:at+len(name)])
	}
	for range 3 {
		if _, _, err := store.Load(t.Context(), key("ann")); !errors.Is(err, boltstore.ErrDamaged) || !errors.Is(err, record.ErrStoreUnavailable) {
			t.Errorf("Load = %v, want ErrDamaged", err)
		}
	}
	if got := log.count("the store is damaged"); got != 1 {
		t.Errorf("it was logged %d times, want once:\n%s", got, log.text())
	}
	if err := store.Check(t.Context()); !errors.Is(err, boltstore.ErrDamaged) || !strings.Contains(err.Error(), "app/ann/crm/hubspot") {
		t.Errorf("Check = %v, want the damage", err)
	}
}

// Reads do not take a change that is being written for damage.
func TestChangesDuringReadsAreNotTakenForDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openStore(t, dir)
	const consumers = 4
	var writers sync.WaitGroup
	for c := range consumers {
		consumer := fmt.Sprintf("consumer-%d", c)
		rev := save(t, store, newRecord(consumer, "token"), 0)
		writers.Go(func() {
			for range 25 {
				var err error
				if rev, err = store.Save(t.Context(), newRecord(consumer, strings.Repeat("token", 500)), rev); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	for reading := true; reading; {
		select {
		case <-done:
			reading = false
		default:
		}
		listed := 0
		for key, err := range store.List(t.Context(), "", "") {
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := store.Load(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			listed++
		}
		if listed != consumers {
			t.Fatalf("List yields %d connections, want %d", listed, consumers)
		}
		if report, err := boltstore.Check(t.Context(), boltstore.Config{Dir: dir}); err != nil || len(report.Damage) > 0 && !report.Changing {
			t.Fatalf("Check of a store in use = %+v, %v", report, err)
		}
	}
	if err := store.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// overwrite changes the database while a store has it open.
func overwrite(t *testing.T, dir string, at int, b []byte) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "connections.db"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(b, int64(at))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// lines is a log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) count(text string) int { return strings.Count(l.text(), text) }
