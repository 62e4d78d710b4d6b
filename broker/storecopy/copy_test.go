package storecopy_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/broker/storecopy"
)

func keyOf(consumer string) record.Key {
	return record.Key{Application: "app", Consumer: consumer, Connector: connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}}
}

var created = time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)

// newRecord returns a record in which every member is set that a copy must keep.
func newRecord(consumer string) *record.Record {
	return &record.Record{
		Key: keyOf(consumer), CreatedAt: created, UpdatedAt: created.Add(time.Hour), Enabled: true, Generation: 7,
		Settings:    map[string]any{"region": "eu"},
		Metadata:    map[string]any{"plan": "large"},
		Credentials: &record.Credentials{AccessToken: secret.New("at-" + consumer), RefreshToken: secret.New("rt-" + consumer), IssuedAt: created},
		Replaced:    []secret.Hash{secret.New("old").Hash()},
		Cycle:       record.Cycle{Phase: record.PhasePending, Attempts: 2, RetryAt: created},
	}
}

func tombstone(consumer string) *record.Record {
	return &record.Record{Key: keyOf(consumer), CreatedAt: created, Deleted: created, Generation: 3}
}

func save(t *testing.T, s record.Store, records ...*record.Record) {
	t.Helper()
	for _, rec := range records {
		_, rev, err := s.Load(t.Context(), rec.Key)
		if err != nil && !errors.Is(err, record.ErrNotFound) {
			t.Fatal(err)
		}
		if _, err := s.Save(t.Context(), rec, rev); err != nil {
			t.Fatal(err)
		}
	}
}

func load(t *testing.T, s record.Store, consumer string) *record.Record {
	t.Helper()
	rec, _, err := s.Load(t.Context(), keyOf(consumer))
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func wantRecord(t *testing.T, s record.Store, want *record.Record) {
	t.Helper()
	got, err := record.Encode(load(t, s, want.Key.Consumer))
	if err != nil {
		t.Fatal(err)
	}
	if encoded, err := record.Encode(want); err != nil || string(got) != string(encoded) {
		t.Errorf("got\n%s\nwant\n%s, %v", got, encoded, err)
	}
}

func run(t *testing.T, from, to record.Store) *storecopy.Report {
	t.Helper()
	r, err := storecopy.Copy(t.Context(), storecopy.Config{From: from, To: to})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func inStandby(rec *record.Record) *record.Record {
	rec.Standby = true
	return rec
}

func TestCopiesAreAsTheOriginalsWereAndTheseAreInStandby(t *testing.T) {
	t.Parallel()
	var from, to brokertest.MemStore
	own := newRecord("sweep")
	own.Key.Application = record.OwnApplication
	save(t, &from, newRecord("ann"), inStandby(newRecord("bob")), tombstone("carl"), own)
	for i, want := range []string{"copied 2, present 0, deleted 1, standby 1", "copied 0, present 2, deleted 1, standby 0"} {
		r := run(t, &from, &to)
		got := fmt.Sprintf("copied %d, present %d, deleted %d, standby %d", r.Copied, r.Present, r.Deleted, r.Standby)
		if got != want || !r.Complete() || r.Verified != 3 || r.Unknown.Count != 0 {
			t.Errorf("run %d: %s, %+v; want %s", i+1, got, r, want)
		}
		wantRecord(t, &to, newRecord("ann"))
		wantRecord(t, &to, inStandby(newRecord("bob")))
		wantRecord(t, &to, tombstone("carl"))
		for _, consumer := range []string{"ann", "bob"} {
			wantRecord(t, &from, inStandby(newRecord(consumer)))
		}
	}
	if _, _, err := to.Load(t.Context(), own.Key); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("the broker's own record: %v, want none", err)
	}
}

// Wherever a copy is broken off, at most one of the stores has an active record, and the next
// run completes it.
func TestACopyCanBeBrokenOffAnywhere(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken off")
	for _, after := range []bool{false, true} { // the operation was carried out
		for n := 1; ; n++ {
			var from, to brokertest.MemStore
			save(t, &from, newRecord("ann"), inStandby(newRecord("bob")), tombstone("carl"))
			operations := make(chan int, 1)
			operations <- 0
			count := func(string, record.Key) error {
				i := <-operations + 1
				operations <- i
				if i >= n {
					return broken
				}
				return nil
			}
			for _, s := range []*brokertest.MemStore{&from, &to} {
				if after {
					s.FailAfter = count
				} else {
					s.Fail = count
				}
			}
			_, err := storecopy.Copy(t.Context(), storecopy.Config{From: &from, To: &to})
			for _, s := range []*brokertest.MemStore{&from, &to} {
				s.Fail, s.FailAfter = nil, nil
			}
			if err == nil {
				if n < 15 {
					t.Errorf("the copy had only %d operations", n)
				}
				break
			}
			there, _, err := to.Load(t.Context(), keyOf("ann"))
			if !load(t, &from, "ann").Standby && err == nil && !there.IsTombstone() {
				t.Errorf("broken off at operation %d, both stores have an active connection", n)
			}
			if r := run(t, &from, &to); !r.Complete() || r.Verified != 3 {
				t.Errorf("after %d operations, the next run: %+v", n, r)
			}
			wantRecord(t, &to, newRecord("ann"))
			wantRecord(t, &to, inStandby(newRecord("bob")))
		}
	}
}

func TestWhatIsThereAndDiffersStays(t *testing.T) {
	t.Parallel()
	var from, to brokertest.MemStore
	other := newRecord("bob")
	other.Settings["region"] = "us"
	newer := newRecord("carl")
	newer.Generation++
	save(t, &from, newRecord("ann"), newRecord("bob"), newRecord("carl"))
	save(t, &to, other, newer)
	r := run(t, &from, &to)
	slices.Sort(r.Differ.First)
	if r.Complete() || r.Copied != 1 || r.Verified != 1 || strings.Join(r.Differ.First, " ") != "app/bob/crm/acme app/carl/crm/acme" {
		t.Errorf("got %+v", r)
	}
	wantRecord(t, &to, other)
	wantRecord(t, &from, newRecord("bob")) // it is not put into standby either

	r, err := storecopy.Copy(t.Context(), storecopy.Config{From: &from, To: &to, Replace: true})
	if err != nil || r.Complete() || r.Copied != 1 || r.Present != 1 || strings.Join(r.Differ.First, " ") != "app/carl/crm/acme" {
		t.Errorf("with Replace: %+v, %v", r, err)
	}
	wantRecord(t, &to, newRecord("bob"))
	wantRecord(t, &to, newer)
}

func TestReplaceKeepsStandbyAsItWas(t *testing.T) {
	t.Parallel()
	var from, to brokertest.MemStore
	save(t, &from, newRecord("ann"))
	run(t, &from, &to)
	changed := load(t, &from, "ann")
	changed.Metadata["plan"] = "small"
	save(t, &from, changed)
	if r, err := storecopy.Copy(t.Context(), storecopy.Config{From: &from, To: &to, Replace: true}); err != nil || !r.Complete() {
		t.Errorf("got %+v, %v", r, err)
	}
	changed.Standby = false
	wantRecord(t, &to, changed)
}

func TestACopyWaitsForRefreshesInProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var from, to brokertest.MemStore
		for _, consumer := range []string{"ann", "dead"} {
			rec := newRecord(consumer)
			rec.Lease = &record.Lease{ID: "lease of " + consumer, Duration: time.Minute}
			save(t, &from, rec)
		}
		began := time.Now()
		go func() { // another process stores the token that it was about to get
			time.Sleep(20 * time.Second)
			rec, rev, err := from.Load(context.Background(), keyOf("ann"))
			if err != nil {
				t.Error(err)
				return
			}
			rec.Lease, rec.Credentials.RefreshToken = nil, secret.New("rt-next")
			if _, err := from.Save(context.Background(), rec, rev); err != nil {
				t.Error(err)
			}
		}()
		r := run(t, &from, &to)
		if !r.Complete() || r.Copied != 2 || strings.Join(r.Unknown.First, " ") != "app/dead/crm/acme" {
			t.Errorf("got %+v", r)
		}
		if took := time.Since(began); took < time.Minute || took > 2*time.Minute {
			t.Errorf("it took %v: the lease of a process that is gone is watched for its duration, once", took)
		}
		if got := load(t, &to, "ann"); got.Credentials.RefreshToken.Reveal() != "rt-next" || got.Standby || got.Lease != nil {
			t.Errorf("the copy does not have the new token: %s", got.Credentials.RefreshToken.Reveal())
		}
	})
}

func TestALeaseOfAnEmbeddedStoreIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		from, to := brokertest.MemStore{Exclusive: true}, brokertest.MemStore{}
		rec := newRecord("ann")
		rec.Lease = &record.Lease{ID: "left behind", Duration: time.Minute}
		save(t, &from, rec)
		began := time.Now()
		if r := run(t, &from, &to); r.Unknown.Count != 1 || !r.Complete() {
			t.Errorf("got %+v", r)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("it took %v", took)
		}
	})
}

func TestWhatAppearsDuringTheCopyIsMissing(t *testing.T) {
	t.Parallel()
	var from, to brokertest.MemStore
	save(t, &from, newRecord("ann"))
	lists := 0
	from.Fail = func(op string, _ record.Key) error {
		if op != brokertest.OpList {
			return nil
		}
		if lists++; lists == 2 {
			save(t, &from, newRecord("bob"))
		}
		return nil
	}
	r := run(t, &from, &to)
	if r.Complete() || strings.Join(r.Missing.First, " ") != "app/bob/crm/acme" || r.Verified != 1 {
		t.Errorf("got %+v", r)
	}
	if r := run(t, &from, &to); !r.Complete() || r.Verified != 2 {
		t.Errorf("the next run: %+v", r)
	}
}

func TestACopyEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var from, to brokertest.MemStore
		rec := newRecord("ann")
		rec.Lease = &record.Lease{ID: "held", Duration: time.Hour}
		save(t, &from, rec)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := storecopy.Copy(ctx, storecopy.Config{From: &from, To: &to})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "app/ann/crm/acme") {
			t.Errorf("got %v", err)
		}
	})
}
