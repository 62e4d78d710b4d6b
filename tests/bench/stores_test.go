package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

func TestThirdPartyTakesEachRefreshTokenOnce(t *testing.T) {
	t.Parallel()
	p := &thirdParty{latest: make(map[int]int)}
	issued := p.issue(7)
	next, ok := p.rotate(issued)
	if !ok || next != issued.Next() || p.current(7) != next {
		t.Errorf("rotate = %v, %v; want the next pair, which is current", next, ok)
	}
	if _, ok := p.rotate(issued); ok {
		t.Error("a refresh token was taken twice")
	}
}

// A fakeVault is the part of a KV version 2 engine that the raw client uses.
type fakeVault struct {
	mu      sync.Mutex
	version map[string]int
}

func (v *fakeVault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	version := v.version[r.URL.Path]
	if r.Method == http.MethodGet {
		_, _ = fmt.Fprintf(w, `{"data":{"data":{"record":"r"},"metadata":{"version":%d}}}`, version)
		return
	}
	var body struct{ Options struct{ CAS *int } }
	if json.NewDecoder(r.Body).Decode(&body) != nil || body.Options.CAS == nil || *body.Options.CAS != version {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	v.version[r.URL.Path]++
	_, _ = fmt.Fprintf(w, `{"data":{"version":%d}}`, version+1)
}

func TestRawClientOfVaultComparesAndSets(t *testing.T) {
	t.Parallel()
	vault := &fakeVault{version: make(map[string]int)}
	server := httptest.NewServer(vault)
	t.Cleanup(server.Close)
	third, err := startThirdParty()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = third.close() })
	raw := &rawVault{
		address: server.URL, prefix: rawPrefix, endpoint: "http://" + third.address + "/token",
		client: newClient(), data: json.RawMessage(`{"record":"r"}`),
	}
	r := &vaultRun{raw: raw, third: third}
	if _, err := raw.read(t.Context(), consumerID(1)); err == nil {
		t.Error("a secret was read that does not exist")
	}
	if err := raw.create(t.Context(), consumerID(1)); err != nil {
		t.Fatal(err)
	}
	if err := raw.create(t.Context(), consumerID(1)); err == nil {
		t.Error("a secret was created twice")
	}
	if _, err := raw.read(t.Context(), consumerID(1)); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := r.refresh(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
	path := "/v1/secret/data/" + rawPrefix + "/" + application + "/" + consumerID(1) + "/crm.bench"
	if got := vault.version[path]; got != 5 {
		t.Errorf("after two refreshes the version is %d, want 5", got)
	}
	if got := third.current(rawConnection + 1).Number; got != 2 {
		t.Errorf("%d tokens were issued, want 2", got)
	}
}

func TestRawClientOfBoltStoresValuesAsLongAsTheBrokers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	raw, err := openRawBolt(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.db.Close() })
	if err := errors.Join(raw.put(t.Context(), 3), fill(t.Context(), dir, 1)); err != nil {
		t.Fatal(err)
	}
	broker, err := bolt.Open(filepath.Join(dir, "store", "connections.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broker.Close() })
	// The lengths of times and of numbers differ a little.
	got, want := longestValue(t, raw.db), longestValue(t, broker)
	if got < want-20 || got > want+20 {
		t.Errorf("the value has %d bytes, want about the broker's %d", got, want)
	}
}

// longestValue returns the length of the longest value in the buckets of a database.
func longestValue(t *testing.T, db *bolt.DB) (longest int) {
	t.Helper()
	if err := db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, bucket *bolt.Bucket) error {
			return bucket.ForEach(func(_, value []byte) error {
				longest = max(longest, len(value))
				return nil
			})
		})
	}); err != nil {
		t.Fatal(err)
	}
	return longest
}

func TestWorkNumbersOperationsAndReusesNumbers(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := make(map[int]int)
	s := side{next: new(atomic.Int64), of: func() int { return 10 }, do: func(_ context.Context, i int) error {
		mu.Lock()
		defer mu.Unlock()
		seen[i]++
		return nil
	}}
	done, err := s.work(t.Context(), soon())
	sum := 0
	for i, count := range seen {
		if sum += count; i < 0 || i >= 10 {
			t.Errorf("there was an operation %d", i)
		}
	}
	if err != nil || sum != done || int64(done) != s.next.Load() {
		t.Errorf("work = %d, %v; there were %d operations", done, err, sum)
	}
}

func TestWorkEndsWithTheFirstError(t *testing.T) {
	t.Parallel()
	failure := errors.New("failed")
	s := side{next: new(atomic.Int64), do: func(_ context.Context, i int) error {
		if i == 50 {
			return failure
		}
		return nil
	}}
	if _, err := s.work(t.Context(), time.Now().Add(time.Minute)); !errors.Is(err, failure) {
		t.Errorf("work = %v, want the error", err)
	}
}

func TestResultHasTheMediansOfTheTurns(t *testing.T) {
	t.Parallel()
	turns := func(requests int, cpu time.Duration) []*turn {
		return []*turn{{requests: requests, elapsed: time.Second, cpu: cpu, storeCPU: 2 * cpu}}
	}
	line := (&bout{store: 1}).result("reads", turns(100, 10*time.Millisecond), turns(200, 5*time.Millisecond))
	if got, want := strings.Fields(line), "reads 100 200 0.500 (0.500 to 0.500) 100.0 200.0 50.0"; strings.Join(got, " ") != want {
		t.Errorf("the result is %q, want %s", line, want)
	}
	line = (&bout{}).result("imports", turns(100, 10*time.Millisecond), turns(200, 0))
	if got, want := strings.Fields(line), "imports 100 200 0.500 (0.500 to 0.500) 100.0"; strings.Join(got, " ") != want {
		t.Errorf("the result is %q, want %s", line, want)
	}
}
