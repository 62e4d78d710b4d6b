package broker_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// cachedSources returns a broker's sources of so many connections, each with a valid
// token that was read already.
func cachedSources(tb testing.TB, connections int) []broker.Source {
	tb.Helper()
	store := &brokertest.MemStore{}
	b := broker.New(broker.Options{Open: func(context.Context) (broker.Store, error) { return store, nil }})
	tb.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	def := connector.Definition{ID: acme, Name: "Acme", AuthType: connector.OAuth2, TokenURL: "https://auth.acme.test/token", AuthStyle: connector.AuthHeader}
	b.Configure(&broker.Config{
		Connectors: map[connector.ID]*broker.Connector{acme: {Definition: def.WithDefaults()}},
		CacheTTL:   time.Hour,
	})
	sources := make([]broker.Source, connections)
	for i := range sources {
		key := broker.Key{Application: "app", Consumer: fmt.Sprint("customer ", i), Connector: acme}
		rec := &broker.Record{Key: key, Enabled: true, Generation: 1, Credentials: &broker.Credentials{
			AccessToken: broker.NewSecret(fmt.Sprint("access ", i)), RefreshToken: broker.NewSecret("r"),
			IssuedAt: time.Now(), Expiry: time.Now().Add(24 * time.Hour),
		}}
		if _, err := store.Save(tb.Context(), rec, 0); err != nil {
			tb.Fatal(err)
		}
		sources[i] = b.Source(key)
		if _, err := sources[i].Token(tb.Context()); err != nil {
			tb.Fatal(err)
		}
	}
	return sources
}

// BenchmarkCachedToken is the way of a token that is at hand through the source. It is
// to be flat: what other connections there are makes no difference.
func BenchmarkCachedToken(b *testing.B) {
	for _, connections := range []int{1, 1_000, 100_000} {
		b.Run(fmt.Sprintf("connections=%d", connections), func(b *testing.B) {
			sources := cachedSources(b, connections)
			ctx := context.Background()
			var worker atomic.Int64
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := int(worker.Add(1)) * 7919; pb.Next(); i++ {
					// A thousand of them, so that all sizes have the same in the CPU's caches.
					if _, err := sources[i%min(connections, 1_000)].Token(ctx); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func TestCachedTokenIsHandedOutWithoutAllocating(t *testing.T) {
	source := cachedSources(t, 1)[0]
	ctx := context.Background()
	if got := testing.AllocsPerRun(1000, func() {
		if _, err := source.Token(ctx); err != nil {
			t.Error(err)
		}
	}); got != 0 {
		t.Errorf("got %v allocations, want none", got)
	}
}
