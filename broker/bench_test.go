package broker_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// cachedConnections returns a broker and the keys of its connections, each with a valid
// token in the cache.
func cachedConnections(tb testing.TB, connections int) (*broker.Broker, []record.Key) {
	tb.Helper()
	store := &brokertest.MemStore{}
	b := broker.New(broker.Options{Open: func(context.Context) (record.Store, error) { return store, nil }})
	tb.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	def := connector.Definition{ID: acme, Name: "Acme", AuthType: connector.OAuth2, TokenURL: "https://auth.acme.test/token", AuthStyle: connector.AuthHeader, BaseURL: "https://api.acme.test"}
	b.Configure(&record.Config{
		Connectors: map[connector.ID]*record.Connector{acme: {Definition: def.WithDefaults()}},
		CacheTTL:   time.Hour,
	})
	keys := make([]record.Key, connections)
	for i := range keys {
		key := record.Key{Application: "app", Consumer: fmt.Sprint("customer ", i), Connector: acme}
		rec := &record.Record{Key: key, Enabled: true, Generation: 1, Credentials: &record.Credentials{
			AccessToken: secret.New(fmt.Sprintf("access-token-of-a-usual-length-%032d", i)), RefreshToken: secret.New("r"),
			IssuedAt: time.Now(), Expiry: time.Now().Add(24 * time.Hour),
		}}
		if _, err := store.Save(tb.Context(), rec, 0); err != nil {
			tb.Fatal(err)
		}
		keys[i] = key
		if _, err := b.Source(key).Token(tb.Context()); err != nil {
			tb.Fatal(err)
		}
	}
	return b, keys
}

func cachedSources(tb testing.TB, connections int) []broker.Source {
	tb.Helper()
	b, keys := cachedConnections(tb, connections)
	sources := make([]broker.Source, len(keys))
	for i, key := range keys {
		sources[i] = b.Source(key)
	}
	return sources
}

// BenchmarkCachedToken gets cached tokens from sources. The cost must not depend on the
// number of connections.
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
					// At most a thousand, so that the CPU's caches hold the same at all sizes.
					if _, err := sources[i%min(connections, 1_000)].Token(ctx); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// A cachedCall is what the broker does for a call of a connection with a cached token.
type cachedCall struct {
	tokens *broker.Broker
	keys   []record.Key
	req    *http.Request
	resp   *http.Response
	header http.Header // of the request, as the caller sends it
	done   int
}

func newCachedCall(tb testing.TB, connections int) *cachedCall {
	tb.Helper()
	c := &cachedCall{header: http.Header{
		"Accept": {"application/json"}, "User-Agent": {"bench"}, "Via": {"1.1 Caddy"}, "X-Request-Id": {"1"},
	}}
	c.tokens, c.keys = cachedConnections(tb, connections)
	c.resp = brokertest.Response(http.StatusOK, "ok")
	c.resp.Header = http.Header{"Content-Type": {"application/json"}, "Date": {"Mon, 02 Jan 2006 15:04:05 GMT"}, "Content-Length": {"2"}}
	var err error
	if c.req, err = http.NewRequest(http.MethodGet, "https://api.acme.test/v1/things", nil); err != nil {
		tb.Fatal(err)
	}
	return c
}

// do authorises a request of the next connection, and handles its response.
func (c *cachedCall) do(tb testing.TB) {
	clear(c.req.Header)
	maps.Copy(c.req.Header, c.header)
	admission, err := c.tokens.Admit(context.Background(), c.keys[c.done%len(c.keys)])
	c.done++
	if err != nil {
		tb.Fatal(err)
	}
	auth, err := admission.Authorize(c.req)
	if err != nil {
		tb.Fatal(err)
	}
	auth.HandleResponse(c.resp)
	admission.Release()
}

func BenchmarkAuthorize(b *testing.B) {
	call := newCachedCall(b, 1_000)
	b.ReportAllocs()
	for b.Loop() {
		call.do(b)
	}
}

// The admission, with the authorization in it, is all that a call allocates. Credential, host
// check and header values are shared.
func TestCallWithACachedTokenAllocatesOnce(t *testing.T) {
	call := newCachedCall(t, 10)
	if got := testing.AllocsPerRun(1000, func() { call.do(t) }); got != 1 {
		t.Errorf("%v allocations, want 1", got)
	}
	if sent := call.req.Header.Get("Authorization"); sent == "" {
		t.Error("the request has no credential")
	}
}
