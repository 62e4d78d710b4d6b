package engine

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/pace"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// A breaker gives a connection the turn for a few seconds, and its refresh must not spend them
// in the queue. Those that a breaker releases do queue.
func TestTurnOfABreakerIsNotHeldBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		provider := brokertest.NewProvider()
		release := make(chan struct{})
		provider.Deliver = func(int) error { <-release; return nil }
		e, keys := newBusy(t, provider)
		var ended []<-chan struct{}
		for _, key := range keys {
			ended = append(ended, e.Refresher(key).Start(t.Context(), pace.Unused))
		}
		synctest.Wait()
		if got := len(provider.Requests()); got != 1 {
			t.Fatalf("got %d token requests, want 1: the budget allows one at a time", got)
		}
		background{e}.QueueRefresh(keys[1])
		background{e}.StartRefresh(keys[2])
		synctest.Wait()
		if got := len(provider.Requests()); got != 2 {
			t.Errorf("got %d token requests, want a second one for the turn", got)
		}
		close(release)
		synctest.Wait()
		wantEnded(t, ended, true, false, true, false)
		time.Sleep(time.Minute)
		wantEnded(t, ended, true, true, true, true)
		if got := len(provider.Requests()); got != len(keys) {
			t.Errorf("got %d token requests, want one for each of %d connections", got, len(keys))
		}
	})
}

// What relies on the end of refreshes must not wait for those that a shutdown prevents.
func TestRefreshThatWaitsEndsWithTheShutdown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		provider := brokertest.NewProvider()
		e, keys := newBusy(t, provider)
		provider.Deliver = func(int) error { time.Sleep(time.Second); return nil }
		var ended []<-chan struct{}
		for _, key := range keys {
			ended = append(ended, e.Refresher(key).Start(t.Context(), pace.Unused))
		}
		synctest.Wait()
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantEnded(t, ended, true, true, true, true)
		ended = append(ended[:0], e.Refresher(keys[1]).Start(t.Context(), pace.Unused))
		wantEnded(t, ended, true)
		if got := len(provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1", got)
		}
	})
}

// newBusy returns an engine with four connections whose tokens have expired. The budget allows
// one refresh at a time, and one a second.
func newBusy(t *testing.T, provider *brokertest.Provider) (*Engine, []record.Key) {
	t.Helper()
	store := &brokertest.MemStore{}
	e := New(func(context.Context) (record.Store, error) { return store, nil }, nil, nil, func(bool) http.RoundTripper { return provider })
	t.Cleanup(func() { _ = e.Close(context.Background()) })
	id := connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}
	def := connector.Definition{
		ID: id, Name: "Acme", AuthType: connector.OAuth2, TokenURL: "https://auth.acme.test/token", AuthStyle: connector.AuthHeader,
		BaseURL: "https://api.acme.test", RefreshRate: 1, RefreshConcurrency: 1,
	}
	client := record.Client{ID: provider.ClientID, Secret: secret.New(provider.ClientSecret)}
	conn := &record.Connector{Definition: def.WithDefaults(), Client: client}
	e.Configure(&record.Config{Connectors: map[connector.ID]*record.Connector{id: conn}})
	keys := make([]record.Key, 4)
	for i := range keys {
		keys[i] = record.Key{Application: "app", Consumer: fmt.Sprint("customer-", i), Connector: id}
		refresh := fmt.Sprint("refresh-", i)
		provider.Grant(refresh)
		rec := &record.Record{Key: keys[i], Enabled: true, Generation: 1, Credentials: &record.Credentials{
			AccessToken: secret.New("access"), RefreshToken: secret.New(refresh), IssuedAt: time.Now().Add(-time.Hour), Expiry: time.Now(),
		}}
		if _, err := store.Save(t.Context(), rec, 0); err != nil {
			t.Fatal(err)
		}
	}
	return e, keys
}

// wantEnded checks which refreshes have ended.
func wantEnded(t *testing.T, ended []<-chan struct{}, want ...bool) {
	t.Helper()
	for i, c := range ended {
		got := false
		select {
		case <-c:
			got = true
		default:
		}
		if got != want[i] {
			t.Errorf("refresh %d: ended is %v, want %v", i, got, want[i])
		}
	}
}
