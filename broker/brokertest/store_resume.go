package brokertest

import (
	"fmt"
	"iter"
	"slices"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// testListAfter lists the store from different positions on.
func testListAfter(t *testing.T, s record.Store) {
	resumable, ok := s.(record.ResumableStore)
	if !ok {
		return
	}
	hubspot, hub := connector.ID{UnifiedAPI: "crm", ServiceID: "hubspot"}, connector.ID{UnifiedAPI: "crm", ServiceID: "hub"}
	add := func(app, consumer string, id connector.ID) record.Key {
		key := record.Key{Application: app, Consumer: consumer, Connector: id}
		mustSave(t, s, storeRecord(key, 1), 0)
		return key
	}
	for _, name := range hostileNames() {
		add("app", name, hubspot)
		add(name, "ann", hubspot)
	}
	for i := range 300 { // more than a store may read at a time
		add("many", fmt.Sprint("consumer-", i), hubspot)
	}
	add("app", "a", hub)
	add("a-", "ann", hub)
	all := listedAfter(t, resumable, record.Key{})
	wantSameKeys(t, s, all)
	for i := 0; i < len(all); i += 1 + len(all)/20 {
		wantSequence(t, resumable, all[i], all[i+1:])
	}
	wantSequence(t, resumable, all[len(all)-1], nil)

	wantApplications(t, resumable, all)

	// The position need not exist any longer, or yet.
	gone := all[len(all)/2]
	if err := s.Delete(storeContext(t), gone); err != nil {
		t.Fatal(err)
	}
	wantSequence(t, resumable, gone, all[len(all)/2+1:])
	all = slices.Delete(all, len(all)/2, len(all)/2+1)
	wantSequence(t, resumable, record.Key{}, all)

	next, stop := iter.Pull2(resumable.ListAfter(storeContext(t), all[0]))
	defer stop()
	if key, err, ok := next(); err != nil || !ok || key != all[1] {
		t.Errorf("ListAfter yields %s, %v, %t; want %s", key, err, ok, all[1])
	}
}

// wantApplications checks that the keys of each application follow one another, behind the key
// that has only the application.
func wantApplications(t *testing.T, s record.ResumableStore, all []record.Key) {
	t.Helper()
	seen := make(map[string]bool)
	for i, key := range all {
		if i > 0 && all[i-1].Application == key.Application {
			continue
		}
		if seen[key.Application] {
			t.Fatalf("the keys of %q do not follow one another", key.Application)
		}
		seen[key.Application] = true
		for got, err := range s.ListAfter(storeContext(t), record.Key{Application: key.Application}) {
			if err != nil || got != key {
				t.Errorf("the first key of %q is %s, %v, want %s", key.Application, got, err, key)
			}
			break
		}
	}
}

// wantSameKeys checks that the keys are those of List, each once.
func wantSameKeys(t *testing.T, s record.Store, keys []record.Key) {
	t.Helper()
	set := make(map[record.Key]bool)
	for _, key := range keys {
		set[key] = true
	}
	if len(set) != len(keys) {
		t.Errorf("ListAfter yields %d keys, %d of them different", len(keys), len(set))
	}
	wantList(t, s, "", "", set)
}

func wantSequence(t *testing.T, s record.ResumableStore, after record.Key, want []record.Key) {
	t.Helper()
	if got := listedAfter(t, s, after); !slices.Equal(got, want) {
		t.Errorf("ListAfter(%s) yields %d keys, want %d in the same order", after, len(got), len(want))
	}
}

func listedAfter(t *testing.T, s record.ResumableStore, after record.Key) []record.Key {
	t.Helper()
	var keys []record.Key
	for key, err := range s.ListAfter(storeContext(t), after) {
		if err != nil {
			t.Fatalf("ListAfter(%s): %v", after, err)
		}
		keys = append(keys, key)
	}
	return keys
}
