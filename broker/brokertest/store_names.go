package brokertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// hostileNames returns application and consumer ids that a store may confuse with one
// another, or with its own syntax.
func hostileNames() []string {
	long := strings.Repeat("x", 255)
	return []string{
		"a", "A", "a/b", "b", "b/c", "c", "a/", "/a", "/", "//", "a//b",
		".", "..", "...", "../a", "a/..", ".a", "a.", "~", "~~", "~2F", "~2f", "a~", "a~2Fb", "~7E",
		"%2e", "%2E%2e", "%2F", "%", "%00", "a%2Fb", "+", "a+b", "a b", " a", "a ", " ",
		"é", "e\u0301", "É", "日本語", "🔑", "\u202eabc", "ß", "ss",
		"?", "#", "a?list=true", "a#b", "&", "=", ";", ":", "\\", "a\\b", "\"", "'", "*", "<>", "|",
		"data", "metadata", "connections", "null", "con", "-", "--help", "_", "a,b", "[]", "{}", "$HOME", "`",
		long, long[:254], long[:97], long[:96], long[:95],
		strings.Repeat("/", 255), strings.Repeat("~", 255), strings.Repeat("ö", 127), strings.Repeat(".", 255),
		strings.Repeat("x", 95) + "/y", strings.Repeat("x", 94) + "/" + strings.Repeat("y", 94),
	}
}

func testHostileNames(t *testing.T, s record.Store) {
	long := connector.ID{UnifiedAPI: strings.Repeat("a", 64), ServiceID: strings.Repeat("b-_9", 16)}
	ids := []connector.ID{{UnifiedAPI: "crm", ServiceID: "hubspot"}, long}
	want := make(map[record.Key]bool)
	for _, name := range hostileNames() {
		for _, id := range ids {
			want[record.Key{Application: "app", Consumer: name, Connector: id}] = true
			want[record.Key{Application: name, Consumer: "ann", Connector: id}] = true
		}
	}
	for _, pair := range [][2]string{{"a/b", "c"}, {"a", "b/c"}, {"a/b", "c/d"}, {"..", ".."}, {"a~", "b"}, {"a", "~b"}} {
		want[record.Key{Application: pair[0], Consumer: pair[1], Connector: ids[0]}] = true
	}
	generation := uint64(0)
	generations := make(map[record.Key]uint64)
	for key := range want {
		if err := key.Validate(); err != nil {
			t.Fatalf("the test uses an invalid key: %v", err)
		}
		generation++
		generations[key] = generation
		mustSave(t, s, storeRecord(key, generation), 0)
	}
	for key, generation := range generations {
		wantGeneration(t, s, key, generation)
	}
	wantList(t, s, "", "", want)
	for _, name := range hostileNames() {
		wantList(t, s, name, "", filterKeys(want, name, ""))
		wantList(t, s, "app", name, filterKeys(want, "app", name))
	}
}

func filterKeys(keys map[record.Key]bool, application, consumer string) map[record.Key]bool {
	got := make(map[record.Key]bool)
	for key := range keys {
		if key.Application == application && (consumer == "" || key.Consumer == consumer) {
			got[key] = true
		}
	}
	return got
}

func testList(t *testing.T, s record.Store) {
	all := make(map[record.Key]bool)
	for _, app := range []string{"app", "app2", "ap"} {
		for _, consumer := range []string{"ann", "ann2", "an"} {
			for _, service := range []string{"hubspot", "hub"} {
				all[record.Key{
					Application: app, Consumer: consumer,
					Connector: connector.ID{UnifiedAPI: "crm", ServiceID: service},
				}] = true
			}
		}
	}
	wantList(t, s, "", "", nil)
	for key := range all {
		mustSave(t, s, storeRecord(key, 1), 0)
	}
	wantList(t, s, "", "", all)
	wantList(t, s, "app", "", filterKeys(all, "app", ""))
	wantList(t, s, "app", "ann", filterKeys(all, "app", "ann"))
	wantList(t, s, "app", "absent", nil)
	wantList(t, s, "absent", "", nil)
}

func testListWhileWriting(t *testing.T, s record.Store) {
	const records = 20
	for i := range records {
		mustSave(t, s, storeRecord(storeKey(fmt.Sprint("consumer-", i)), 1), 0)
	}
	seen := 0
	for key, err := range s.List(storeContext(t), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		seen++
		rec, rev := mustLoad(t, s, key)
		rec.Generation++
		mustSave(t, s, rec, rev)
	}
	if seen != records {
		t.Errorf("List yielded %d keys during writes, want %d", seen, records)
	}
	next, stop := iter.Pull2(s.List(storeContext(t), "", ""))
	if _, err, ok := next(); err != nil || !ok {
		t.Errorf("List yields %v, %t; want a key", err, ok)
	}
	stop()
	wantGeneration(t, s, storeKey("consumer-0"), 2)
}

func testRoundTrip(t *testing.T, s record.Store) {
	rec := &record.Record{
		Key: storeKey("ann"), CreatedAt: storeTime, UpdatedAt: storeTime.Add(1), Enabled: true,
		Settings: map[string]any{"quote": "\"\\\u2028<&>\x00", "deep": map[string]any{"list": []any{"a", nil, true}}},
		Metadata: map[string]any{"": "empty name", "日本": "🔑"},
		Credentials: &record.Credentials{
			AccessToken: secret.New("access/+=\"\\é"), RefreshToken: secret.New(strings.Repeat("r", 5000)),
			TokenType: "bearer", IssuedAt: storeTime, Expiry: storeTime.Add(3600), FromImport: true, Redeemed: true,
		},
		Generation: 1<<64 - 1,
		Imported:   []secret.Hash{"i1", "i2"}, Replaced: []secret.Hash{"r1"},
		Lease: &record.Lease{ID: "lease", Duration: 45e9, RefreshToken: "hash"},
		Cycle: record.Cycle{Queued: true, Attempts: 3, Ambiguous: 1, Parked: "hash", RetryAt: storeTime, CredentialsExpireAt: storeTime, Retention: 48e9},
	}
	mustSave(t, s, rec, 0)
	got, _ := mustLoad(t, s, rec.Key)
	if !reflect.DeepEqual(got, rec) {
		gotJSON, _ := record.Encode(got)
		wantJSON, _ := record.Encode(rec)
		t.Errorf("loaded\n%s\nwant\n%s", gotJSON, wantJSON)
	}
}

func testNumbers(t *testing.T, s record.Store) {
	rec := storeRecord(storeKey("ann"), 1)
	want := map[string]any{
		"id":      json.Number("12345678901234567890123"),
		"odd":     json.Number("9007199254740993"),
		"decimal": json.Number("1.10"),
		"one":     json.Number("1.0"),
		"huge":    json.Number("1e400"),
		"tiny":    json.Number("-0.1E-2"),
	}
	rec.Settings = map[string]any{"n": maps.Clone(want)}
	mustSave(t, s, rec, 0)
	got, _ := mustLoad(t, s, rec.Key)
	if !reflect.DeepEqual(got.Settings["n"], want) {
		t.Errorf("loaded numbers %v, want %v", got.Settings["n"], want)
	}
}

func listed(t *testing.T, s record.Store, application, consumer string) map[record.Key]bool {
	t.Helper()
	got := make(map[record.Key]bool)
	for key, err := range s.List(storeContext(t), application, consumer) {
		if err != nil {
			t.Fatalf("List(%q, %q): %v", application, consumer, err)
		}
		if got[key] {
			t.Errorf("List(%q, %q) yields %s twice", application, consumer, key)
		}
		got[key] = true
	}
	return got
}

func wantList(t *testing.T, s record.Store, application, consumer string, want map[record.Key]bool) {
	t.Helper()
	got := listed(t, s, application, consumer)
	var errs []error
	for key := range want {
		if !got[key] {
			errs = append(errs, fmt.Errorf("lacks %s", key))
		}
	}
	for key := range got {
		if !want[key] {
			errs = append(errs, fmt.Errorf("has %s", key))
		}
	}
	if len(errs) > 0 {
		t.Errorf("List(%q, %q): %v", application, consumer, errors.Join(errs...))
	}
}
