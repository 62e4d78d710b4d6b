package engine

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// lockAll takes every mutex that a refresh of the refresher's connection can take. The
// returned function releases them.
func (r *Refresher) lockAll() (unlock func()) {
	e := r.engine
	locks := []sync.Locker{
		&r.mu,
		e.connections.refreshers.Locker(&r.Key),
		e.storage.opened.Load().Locker(),
		e.refusals.breakers.Locker(),
		e.pace.Locker(),
		&e.lifecycle.mu,
		&e.refusals.announcements.mu,
		&e.backlog.mu,
	}
	for _, l := range locks {
		l.Lock()
	}
	return func() {
		for _, l := range slices.Backward(locks) {
			l.Unlock()
		}
	}
}

func TestCachedTokenIsHandedOutWhileAllLocksOfARefreshAreTaken(t *testing.T) {
	t.Parallel()
	store := &brokertest.MemStore{}
	e := New(func(context.Context) (record.Store, error) { return store, nil }, nil, nil, nil)
	t.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	id := connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}
	def := connector.Definition{
		ID: id, Name: "Acme", AuthType: connector.OAuth2, TokenURL: "https://auth.acme.test/token", AuthStyle: connector.AuthHeader,
		BaseURL: "https://api.acme.test",
	}
	conn := &record.Connector{Definition: def.WithDefaults()}
	e.Configure(&record.Config{Connectors: map[connector.ID]*record.Connector{id: conn}, CacheTTL: time.Hour})
	key := record.Key{Application: "app", Consumer: "customer", Connector: id}
	rec := &record.Record{Key: key, Enabled: true, Generation: 1, Credentials: &record.Credentials{
		AccessToken: secret.New("access"), RefreshToken: secret.New("refresh"), IssuedAt: time.Now(), Expiry: time.Now().Add(24 * time.Hour),
	}}
	if _, err := store.Save(t.Context(), rec, 0); err != nil {
		t.Fatal(err)
	}
	r := e.Refresher(key)
	if _, err := r.Current(t.Context(), conn); err != nil { // from now on it is cached
		t.Fatal(err)
	}

	unlock := r.lockAll()
	defer unlock()
	type result struct {
		snap *Snapshot
		err  error
	}
	got := make(chan result, 1)
	go func() {
		snap, err := r.Current(context.Background(), conn)
		got <- result{snap, err}
	}()
	select {
	case res := <-got:
		if res.err != nil {
			t.Fatal(res.err)
		}
		if token := res.snap.Record.Credentials.AccessToken; !token.Equal(rec.Credentials.AccessToken) {
			t.Error("got another token than without the locks")
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for a lock")
	}
}
