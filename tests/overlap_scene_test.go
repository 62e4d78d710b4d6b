package tests

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// An oldSystem is what customers move from: a program that refreshes the tokens in a table of
// its own.
type oldSystem struct {
	deployment *deployment

	mu   sync.Mutex
	rows map[string]oldRow // guarded by mu; by customer
}

// An oldRow is a row of the old system's table.
type oldRow struct {
	access, refresh string
	number          int       // of the access token; see [oauthserver.Generation]
	expires         time.Time // whole seconds
}

// oldSource identifies the old system to the OAuth server; see [oauthserver.TokenRequest].
const oldSource = "from=old"

// newOldSystem returns a system with customers who logged in at different times.
func newOldSystem(t *testing.T, d *deployment, customers []string) *oldSystem {
	t.Helper()
	o := &oldSystem{deployment: d, rows: make(map[string]oldRow)}
	for i, customer := range customers {
		login := d.provider.Login(t, customer, time.Duration(i)*overlapLifetime/2/time.Duration(len(customers)))
		o.rows[customer] = oldRow{access: login.AccessToken, refresh: login.RefreshToken, expires: login.IssuedAt.Add(login.Lifetime).Truncate(time.Second)}
	}
	return o
}

// table returns a copy of the table.
func (o *oldSystem) table() map[string]oldRow {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.rows)
}

// run refreshes tokens that have used up more than half of their lifetime, until stop, which waits
// for token requests in progress.
func (o *oldSystem) run(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pollInterval):
			}
			if err := o.refreshAll(overlapLifetime * 2 / 5); err != nil {
				t.Errorf("the old system cannot refresh: %v", err)
				return
			}
		}
	})
	stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(stop)
	return stop
}

// refreshAll refreshes the tokens that expire within a time.
func (o *oldSystem) refreshAll(within time.Duration) error {
	var due []string
	for customer, row := range o.table() {
		if time.Until(row.expires) < within {
			due = append(due, customer)
		}
	}
	return inParallel(len(due), func(i int) error { return o.refresh(due[i]) })
}

func (o *oldSystem) refresh(customer string) error {
	row := o.table()[customer]
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	form := url.Values{
		"grant_type": {"refresh_token"}, "refresh_token": {row.refresh},
		"client_id": {oauthserver.ClientID}, "client_secret": {o.deployment.clientSecret},
	}
	sent := time.Now()
	got, err := try(ctx, http.MethodPost, o.deployment.provider.TokenURL+"?"+oldSource,
		http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, form.Encode())
	if err != nil {
		return fmt.Errorf("%s: %w", customer, err)
	}
	var token struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
		ExpiresIn    int    `json:"expires_in"`
	}
	if err := json.Unmarshal(got.body, &token); err != nil || got.status != http.StatusOK {
		return fmt.Errorf("%s: token %d was answered with %v", customer, row.number, got)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rows[customer] = oldRow{
		access: token.AccessToken, refresh: token.RefreshToken, number: row.number + 1,
		expires: sent.Add(time.Duration(token.ExpiresIn) * time.Second).Truncate(time.Second),
	}
	return nil
}

// dumpOf returns a table as CSV, as the database of the old system writes it.
func dumpOf(t *testing.T, table map[string]oldRow) string {
	t.Helper()
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	records := [][]string{{"customer", "provider", "access", "refresh", "expires"}}
	for _, customer := range slices.Sorted(maps.Keys(table)) {
		row := table[customer]
		records = append(records, []string{customer, "acme", row.access, row.refresh, strconv.FormatInt(row.expires.Unix(), 10)})
	}
	if err := w.WriteAll(records); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// load replaces the table by the rows of an export.
func (o *oldSystem) load(t *testing.T, export []byte) {
	t.Helper()
	rows := make(map[string]oldRow)
	for line := range bytes.Lines(export) {
		var row struct {
			ConsumerID  string `json:"consumer_id"`
			Credentials struct {
				AccessToken  string    `json:"access_token"`
				RefreshToken string    `json:"refresh_token"`
				ExpiresAt    time.Time `json:"expires_at"`
			}
		}
		if err := json.Unmarshal(line, &row); err != nil {
			t.Fatal(err)
		}
		c := row.Credentials
		// Each token request has made one token, and there was the login's.
		number := len(o.deployment.provider.TokenRequests(row.ConsumerID))
		rows[row.ConsumerID] = oldRow{access: c.AccessToken, refresh: c.RefreshToken, number: number, expires: c.ExpiresAt.Truncate(time.Second)}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(rows) != len(o.rows) {
		t.Fatalf("the export has %d rows, want %d", len(rows), len(o.rows))
	}
	o.rows = rows
}

// slowly is a hook that carries out token requests at once and takes a while to answer.
func slowly(w http.ResponseWriter, r *http.Request, server http.Handler) {
	answer := httptest.NewRecorder()
	server.ServeHTTP(answer, r)
	time.Sleep(300 * time.Millisecond)
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}
