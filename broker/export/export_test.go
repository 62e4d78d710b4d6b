package export_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/export"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
)

var (
	acme   = connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}
	now    = time.Date(2026, 5, 6, 7, 8, 9, 123456789, time.UTC)
	hour   = time.Hour
	millis = 1500 * time.Millisecond
)

func newRecord(consumer string) *record.Record {
	rec := record.New(record.Key{Application: "app", Consumer: consumer, Connector: acme}, nil, now)
	rec.Credentials = &record.Credentials{
		AccessToken: secret.New("at-" + consumer), RefreshToken: secret.New("rt-" + consumer),
		IssuedAt: now.Add(-hour), Expiry: now.Add(hour), Lifetime: 2 * hour,
	}
	return rec
}

func save(t *testing.T, s record.Store, records ...*record.Record) {
	t.Helper()
	for _, rec := range records {
		if _, err := s.Save(t.Context(), rec, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func run(t *testing.T, config export.Config) (string, *export.Report) {
	t.Helper()
	var out bytes.Buffer
	r, err := export.Run(t.Context(), config, transfer.NewWriter(&out).Write)
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), r
}

func TestExportPutsIntoStandbyAndWritesRows(t *testing.T) {
	t.Parallel()
	var s brokertest.MemStore
	disabled, parked, gone := newRecord("bob"), newRecord("carl"), newRecord("dora")
	disabled.Enabled = false
	parked.Fail(record.Answer{Class: record.ClassPermanent, Code: "invalid_grant"}, record.Policy{}, now)
	gone.Credentials, gone.Deleted = nil, now
	empty := newRecord("eve")
	empty.Credentials = nil
	own := newRecord("sweep")
	own.Key.Application = record.OwnApplication
	save(t, &s, newRecord("ann"), disabled, parked, gone, empty, own)
	out, r := run(t, export.Config{Store: &s})
	const row = `{"app":"app","consumer_id":"ann","unified_api":"crm","service_id":"acme","credentials":{"access_token":"at-ann","refresh_token":"rt-ann",` +
		`"issued_at":"2026-05-06T06:08:09.123456789Z","expires_at":"2026-05-06T08:08:09.123456789Z"}}` + "\n"
	if !strings.Contains(out, row) || strings.Count(out, "\n") != 4 {
		t.Errorf("got\n%s\nwant 4 rows and\n%s", out, row)
	}
	if want := (export.Report{Exported: 4, Standby: 4, Disabled: 1, Refused: 1, Empty: 1}); *r != want {
		t.Errorf("got %+v, want %+v", r, want)
	}
	again, r := run(t, export.Config{Store: &s})
	if r.Standby != 0 || len(again) != len(out) {
		t.Errorf("the second export: %+v, %d bytes; want %d", r, len(again), len(out))
	}
}

func TestExportCanLeaveConnectionsActive(t *testing.T) {
	t.Parallel()
	var s brokertest.MemStore
	leased := newRecord("ann")
	leased.Lease = &record.Lease{ID: "held", Duration: hour}
	save(t, &s, leased)
	if out, r := run(t, export.Config{Store: &s, KeepActive: true}); r.Standby != 0 || r.Exported != 1 || !strings.Contains(out, "rt-ann") {
		t.Errorf("got %+v, %s", r, out)
	}
	if rec, _, err := s.Load(t.Context(), leased.Key); err != nil || rec.Standby {
		t.Errorf("the connection is in standby, %v", err)
	}
}

func TestExportSelects(t *testing.T) {
	t.Parallel()
	var s brokertest.MemStore
	other, elsewhere := newRecord("bob"), newRecord("carl")
	other.Key.Application = "other"
	elsewhere.Key.Connector.ServiceID = "elsewhere"
	save(t, &s, newRecord("ann"), other, elsewhere)
	out, _ := run(t, export.Config{Store: &s, Selection: export.Selection{Application: "app", Connector: acme}})
	if strings.Count(out, "\n") != 1 || !strings.Contains(out, "at-ann") {
		t.Errorf("got %s", out)
	}
	for _, key := range []record.Key{other.Key, elsewhere.Key} {
		if rec, _, err := s.Load(t.Context(), key); err != nil || rec.Standby {
			t.Errorf("%s is in standby, %v", key, err)
		}
	}
}

func TestExportWaitsForRefreshesInProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s brokertest.MemStore
		ann, bob := newRecord("ann"), newRecord("bob")
		ann.Lease, bob.Lease = &record.Lease{ID: "a", Duration: time.Minute}, &record.Lease{ID: "b", Duration: time.Minute}
		save(t, &s, ann, bob)
		go func() {
			time.Sleep(10 * time.Second)
			rec, rev, err := s.Load(context.Background(), ann.Key)
			if err == nil {
				rec.Lease, rec.Credentials.RefreshToken = nil, secret.New("rt-next")
				_, err = s.Save(context.Background(), rec, rev)
			}
			if err != nil {
				t.Error(err)
			}
		}()
		if out, r := run(t, export.Config{Store: &s}); !strings.Contains(out, "rt-next") || r.Unknown != 1 {
			t.Errorf("got %+v\n%s", r, out)
		}
	})
}

func TestExportEndsWithTheFirstErrorOfItsWriter(t *testing.T) {
	t.Parallel()
	var s brokertest.MemStore
	for i := range 600 {
		save(t, &s, newRecord(strconv.Itoa(i)))
	}
	full := errors.New("the disk is full")
	rows := 0
	_, err := export.Run(t.Context(), export.Config{Store: &s}, func(*transfer.Row) error {
		if rows++; rows == 300 {
			return full
		}
		return nil
	})
	if !errors.Is(err, full) || rows != 300 {
		t.Errorf("got %v after %d rows", err, rows)
	}
}

// A row that is imported and exported again is the same row.
func TestRowsSurviveAnImport(t *testing.T) {
	t.Parallel()
	token := func(c record.Credentials) *record.Credentials {
		c.AccessToken, c.RefreshToken = secret.New("at"), secret.New("rt")
		return &c
	}
	for name, rec := range map[string]*record.Record{
		"all times":             {Credentials: token(record.Credentials{IssuedAt: now.Add(-hour), Expiry: now.Add(hour), Lifetime: 2 * hour, RefreshExpiry: now.Add(48 * hour)})},
		"no times":              {Credentials: token(record.Credentials{})},
		"an expiry alone":       {Credentials: token(record.Credentials{Expiry: now.Add(hour)})},
		"an issue alone":        {Credentials: token(record.Credentials{IssuedAt: now.Add(-hour)})},
		"a lifetime alone":      {Credentials: token(record.Credentials{Lifetime: hour})},
		"a lifetime of before":  {Credentials: token(record.Credentials{IssuedAt: now.Add(-hour), Lifetime: hour})},
		"expired":               {Credentials: token(record.Credentials{IssuedAt: now.Add(-3 * hour), Expiry: now.Add(-hour), Lifetime: 2 * hour})},
		"parts of a second":     {Credentials: token(record.Credentials{IssuedAt: now.Add(-hour), Expiry: now.Add(millis), RefreshExpiry: now.Add(millis)})},
		"another lifetime":      {Credentials: token(record.Credentials{Expiry: now.Add(hour), Lifetime: 5 * hour})},
		"a refresh token alone": {Credentials: &record.Credentials{RefreshToken: secret.New("rt"), IssuedAt: now.Add(-hour)}},
		"objects": {
			Credentials: token(record.Credentials{}),
			Settings:    map[string]any{"region": "eu", "<list>": []any{"a", map[string]any{"b": true}}},
			Metadata:    map[string]any{"n": []any{"1"}, "\u2028": map[string]any{"a": map[string]any{"type": "x", "y": "z"}}},
		},
	} {
		rec.Key = record.Key{Application: "app", Consumer: "Zoë & co", Connector: acme}
		first, err := export.RowOf(rec).AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		row, err := transfer.ParseRow(first)
		if err != nil {
			t.Errorf("%s: %s: %v", name, first, err)
			continue
		}
		conn := &record.Connector{Definition: connector.Definition{ID: acme, AuthType: connector.OAuth2}}
		imported := record.New(row.Key(), nil, now)
		if _, err := imported.Import(conn, &row.Import, now); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if again, err := export.RowOf(imported).AppendJSON(nil); err != nil || !bytes.Equal(first, again) {
			t.Errorf("%s: got %v\n%s\nwant\n%s", name, err, again, first)
		}
		if c := imported.Credentials; !c.Expiry.Equal(rec.Credentials.Expiry) || math.Abs(float64(c.RefreshExpiry.Sub(rec.Credentials.RefreshExpiry))) > float64(time.Second) {
			t.Errorf("%s: the token expires at %v, the refresh token at %v", name, c.Expiry, c.RefreshExpiry)
		}
	}
}
