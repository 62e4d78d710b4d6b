package status_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/broker/status"
)

var (
	now    = time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	acme   = connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}
	keyed  = connector.ID{UnifiedAPI: "crm", ServiceID: "keyed"}
	absent = connector.ID{UnifiedAPI: "crm", ServiceID: "absent"}

	configured = map[connector.ID]*connector.Definition{
		acme:  {ID: acme, AuthType: connector.OAuth2},
		keyed: {ID: keyed, AuthType: connector.APIKey, Settings: []connector.Setting{{Name: "api_key", Required: true, Sensitive: true}}},
	}
)

// newRecord returns the record of a connection whose access token lives for so long.
func newRecord(app, consumer string, id connector.ID, left time.Duration) *record.Record {
	rec := record.New(record.Key{Application: app, Consumer: consumer, Connector: id}, nil, now)
	if id != keyed {
		rec.Credentials = &record.Credentials{
			AccessToken: secret.New("at-" + consumer), RefreshToken: secret.New("rt-" + consumer),
			IssuedAt: now.Add(-24 * time.Hour), Expiry: now.Add(left),
		}
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

func run(t *testing.T, s record.Store, selection status.Selection, problems int) *status.Report {
	t.Helper()
	r, err := status.Run(t.Context(), status.Config{Store: s, Selection: selection, Connectors: configured, Now: now, MaxProblems: problems})
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%+v", r); strings.Contains(text, "at-") || strings.Contains(text, "rt-") || strings.Contains(text, "the user said") {
		t.Errorf("the report has a secret: %s", text)
	}
	return r
}

// populated is a store with connections of all kinds.
func populated(t *testing.T) *brokertest.MemStore {
	t.Helper()
	var s brokertest.MemStore
	parked := newRecord("app", "parked", acme, -time.Hour)
	parked.Fail(record.Answer{Class: record.ClassPermanent, Code: "invalid_grant", Detail: "the user said rt-parked"}, record.Policy{}, now.Add(-time.Minute))
	refused := newRecord("app", "refused", acme, -time.Hour)
	for _, ago := range []time.Duration{3 * time.Hour, 2 * time.Hour, time.Hour} {
		refused.Fail(record.Answer{Class: record.ClassRefused, Code: "access_denied"}, record.Policy{GiveUp: time.Hour, Watched: time.Hour}, now.Add(-ago))
	}
	retried := newRecord("app", "retried", acme, 2*time.Hour)
	retried.Fail(record.Answer{Class: record.ClassTransient, Code: "http_503"}, record.Policy{}, now.Add(-time.Second))
	standby, standbyExpired := newRecord("app", "standby", acme, 2*time.Hour), newRecord("app", "standby-expired", acme, -time.Minute)
	standby.Standby, standbyExpired.Standby = true, true
	disabled := newRecord("app", "disabled", acme, time.Minute)
	disabled.Enabled = false
	tombstone, own := newRecord("app", "deleted", acme, 0), newRecord(record.OwnApplication, "sweep", acme, 0)
	tombstone.Deleted, tombstone.Credentials = now, nil
	save(t, &s, parked, refused, retried, standby, standbyExpired, disabled, tombstone, own, newRecord("app", "expired", acme, -time.Second),
		newRecord("app", "keyless", keyed, 0), newRecord("another", "ann", acme, time.Hour), newRecord("app", "old", absent, -time.Hour))
	return &s
}

func TestConnectionsAreCountedByStateAndHealth(t *testing.T) {
	t.Parallel()
	r := run(t, populated(t), status.Selection{}, 0)
	want := []status.Row{
		{"another", acme, status.Counts{Connections: 1, Callable: 1, OK: 1, Expiring: 1}},
		{"app", absent, status.Counts{Connections: 1, NotConfigured: 1, Expired: 1}},
		{"app", acme, status.Counts{Connections: 7, Callable: 4, OK: 3, PendingRefresh: 2, NeedsAuth: 2, Standby: 2, Disabled: 1, Expired: 4, Expiring: 1}},
		{"app", keyed, status.Counts{Connections: 1, MissingSettings: 1}},
	}
	if len(r.Rows) != len(want) {
		t.Fatalf("got %d rows, want %d: %+v", len(r.Rows), len(want), r.Rows)
	}
	for i, row := range r.Rows {
		if row != want[i] {
			t.Errorf("got %+v\nwant %+v", row, want[i])
		}
	}
	total := status.Counts{
		Connections: 10, Callable: 5, OK: 4, PendingRefresh: 2, NeedsAuth: 2, MissingSettings: 1, NotConfigured: 1,
		Standby: 2, Disabled: 1, Expired: 5, Expiring: 2,
	}
	if r.Total != total {
		t.Errorf("got %+v in total, want %+v", r.Total, total)
	}
	if len(r.Problems) != 0 || r.MoreProblems != 5 {
		t.Errorf("got %v and %d more, want 5 problems that are not listed", r.Problems, r.MoreProblems)
	}
}

func TestASelectionIsCounted(t *testing.T) {
	t.Parallel()
	s := populated(t)
	for _, test := range []struct {
		selection status.Selection
		want      int
	}{
		{status.Selection{Application: "app"}, 9},
		{status.Selection{Connector: acme}, 8},
		{status.Selection{Application: "another", Connector: acme}, 1},
		{status.Selection{Application: "nobody"}, 0},
	} {
		if got := run(t, s, test.selection, 0).Total.Connections; got != test.want {
			t.Errorf("%+v: got %d connections, want %d", test.selection, got, test.want)
		}
	}
}

func TestProblemsAreListedTheMostPressingFirst(t *testing.T) {
	t.Parallel()
	s := populated(t)
	var got []string
	for _, p := range run(t, s, status.Selection{}, 10).Problems {
		got = append(got, fmt.Sprintf("%s %s %s/%s %s", p.Key.Consumer, p.Health, p.Class, p.Code, now.Sub(p.Since)))
	}
	const want = `parked needs_auth permanent/invalid_grant 1m0s
refused needs_auth refused/access_denied 3h0m0s
keyless missing_settings / 2562047h47m16.854775807s
retried pending_refresh transient/http_503 1s
standby-expired pending_refresh / 1m0s`
	if text := strings.Join(got, "\n"); text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	if r := run(t, s, status.Selection{}, 2); len(r.Problems) != 2 || r.Problems[1].Key.Consumer != "refused" || r.MoreProblems != 3 {
		t.Errorf("got %+v and %d more, want two and 3 more", r.Problems, r.MoreProblems)
	}
}

func TestManyProblemsAreBounded(t *testing.T) {
	t.Parallel()
	var s brokertest.MemStore
	for i := range 700 {
		save(t, &s, newRecord("app", fmt.Sprint("k", i), keyed, 0))
	}
	if r := run(t, &s, status.Selection{}, 300); len(r.Problems) != 300 || r.MoreProblems != 400 || r.Total.MissingSettings != 700 {
		t.Errorf("got %d problems, %d more, %+v", len(r.Problems), r.MoreProblems, r.Total)
	}
}

func TestTheReportFailsWithTheStore(t *testing.T) {
	t.Parallel()
	down := errors.New("down")
	for _, op := range []string{brokertest.OpList, brokertest.OpLoad} {
		s := populated(t)
		s.Fail = func(o string, _ record.Key) error {
			if o == op {
				return down
			}
			return nil
		}
		if _, err := status.Run(t.Context(), status.Config{Store: s, Connectors: configured, Now: now}); !errors.Is(err, down) {
			t.Errorf("%s: got %v", op, err)
		}
	}
}

// A connection can be deleted for good between the list and the read.
func TestAConnectionThatGoesAwayIsNotCounted(t *testing.T) {
	t.Parallel()
	s := populated(t)
	s.Fail = func(op string, key record.Key) error {
		if op == brokertest.OpLoad && key.Consumer == "ann" {
			return record.ErrNotFound
		}
		return nil
	}
	if r := run(t, s, status.Selection{}, 0); r.Total.Connections != 9 {
		t.Errorf("got %d connections, want 9", r.Total.Connections)
	}
}

func TestTheReportEndsWithItsContext(t *testing.T) {
	t.Parallel()
	var s brokertest.MemStore
	for i := range 300 {
		save(t, &s, newRecord("app", strconv.Itoa(i), acme, time.Hour))
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.Fail = func(op string, _ record.Key) error {
		if op == brokertest.OpLoad {
			cancel()
		}
		return nil
	}
	var read atomic.Int64
	_, err := status.Run(ctx, status.Config{Store: &s, Connectors: configured, Now: now, Read: &read})
	if !errors.Is(err, context.Canceled) || read.Load() == 300 {
		t.Errorf("got %v after %d records", err, read.Load())
	}
}
