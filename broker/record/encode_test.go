package record_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// fullRecord returns a record with a value in every field.
func fullRecord() *record.Record {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	return &record.Record{
		Key:       record.Key{Application: "app", Consumer: "a/b \u00e4\u2028", Connector: connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}},
		CreatedAt: at, UpdatedAt: at.Add(1), Deleted: at.Add(2), Enabled: true, Standby: true,
		Settings: map[string]any{"n": json.Number("12345678901234567890"), "o": map[string]any{"l": []any{"x", nil, true}}},
		Metadata: map[string]any{"m": "<&>"},
		Credentials: &record.Credentials{
			AccessToken: secret.New("a"), RefreshToken: secret.New("r"), TokenType: "mac",
			IssuedAt: at.Add(3), Expiry: at.Add(4), Lifetime: time.Hour, RefreshExpiry: at.Add(6), FromImport: true, Redeemed: true,
		},
		Generation: 7, Imported: []secret.Hash{"h1"}, Replaced: []secret.Hash{"h2", "h3"},
		Lease: &record.Lease{ID: "id", Duration: 45 * time.Second, RefreshToken: "h"},
		Cycle: record.Cycle{
			Queued: true, Phase: record.PhasePending, Class: record.ClassTransient, Code: "c", FailedAt: at.Add(5), Attempts: 3,
			RetryAt: at.Add(6), GiveUpAt: at.Add(7), Ambiguous: 2, Parked: "p", TokenRejected: true, CredentialsExpireAt: at.Add(8),
		},
	}
}

func TestRecordSurvivesEncoding(t *testing.T) {
	t.Parallel()
	want := fullRecord()
	for i := range reflect.TypeOf(*want).NumField() {
		if field := reflect.ValueOf(*want).Field(i); field.IsZero() {
			t.Errorf("the test's record has no %s", reflect.TypeOf(*want).Field(i).Name)
		}
	}
	encoded, err := record.Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := record.Decode(want.Key, encoded)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Error("the record was changed by encoding and decoding it")
	}
	if clone := want.Clone(); !reflect.DeepEqual(clone, want) {
		t.Error("the clone differs")
	}
	if zero, err := record.Encode(&record.Record{Key: want.Key}); err != nil || strings.Contains(string(zero), "0001-") {
		t.Errorf("zero times are encoded: %s, %v", zero, err)
	}
}

// A program that does not know standby reads format 1, and would redeem the refresh token.
func TestRecordsInStandbyHaveAFormatOfTheirOwn(t *testing.T) {
	t.Parallel()
	active, standby, tombstone := fullRecord(), fullRecord(), fullRecord()
	active.Standby, active.Deleted, standby.Deleted = false, time.Time{}, time.Time{}
	for rec, want := range map[*record.Record]string{active: `{"format":1,`, standby: `{"format":2,`, tombstone: `{"format":1,`} {
		encoded, err := record.Encode(rec)
		if err != nil || !strings.HasPrefix(string(encoded), want) {
			t.Errorf("got %.30s, %v, want %s", encoded, err, want)
		}
		if got, err := record.Decode(rec.Key, encoded); err != nil || !reflect.DeepEqual(got, rec) {
			t.Errorf("got %v: the record was changed by encoding and decoding it", err)
		}
	}
}

func TestCloneSharesNothing(t *testing.T) {
	t.Parallel()
	rec := fullRecord()
	clone := rec.Clone()
	clone.Settings["o"].(map[string]any)["l"].([]any)[0] = "changed"
	clone.Metadata["m"] = "changed"
	clone.Credentials.TokenType, clone.Lease.ID, clone.Imported[0], clone.Replaced[0] = "changed", "changed", "changed", "changed"
	if !reflect.DeepEqual(rec, fullRecord()) {
		t.Error("a change of the clone changed the record")
	}
}

func TestDecodeRefusesForeignRecords(t *testing.T) {
	t.Parallel()
	rec := fullRecord()
	rec.Credentials.AccessToken = secret.New(brokertest.AccessCanary)
	encoded, err := record.Encode(rec)
	if err != nil {
		t.Fatal(err)
	}
	other := rec.Key
	other.Consumer = "another"
	for name, test := range map[string]struct {
		key  record.Key
		data string
	}{
		"another connection's": {other, string(encoded)},
		"of a newer program":   {rec.Key, strings.Replace(string(encoded), `"format":1`, `"format":3`, 1)},
		"cut short":            {rec.Key, string(encoded[:len(encoded)/2])},
		"wrong type":           {rec.Key, `{"format":"` + brokertest.AccessCanary + `"}`},
		"trailing data":        {rec.Key, string(encoded) + "x"},
		"empty":                {rec.Key, ""},
	} {
		if _, err := record.Decode(test.key, []byte(test.data)); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			brokertest.NoCanary(t, name, []byte(err.Error()))
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	encoded, err := record.Encode(fullRecord())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encoded)
	f.Add([]byte(`{"format":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := record.Decode(fullRecord().Key, data)
		if err != nil {
			return
		}
		again, err := record.Encode(rec)
		if err != nil {
			t.Fatalf("what was decoded cannot be encoded: %v", err)
		}
		if second, err := record.Decode(rec.Key, again); err != nil || !reflect.DeepEqual(second.Credentials, rec.Credentials) {
			t.Fatalf("not the same after another round: %v", err)
		}
	})
}
