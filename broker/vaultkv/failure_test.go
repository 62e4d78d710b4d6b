package vaultkv_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/vaultkv"
)

// A relay stands between a store and the real Vault. It calls before and after for each
// request to the engine, with the request's number from 1 on. They return true if they
// have sent the response themselves.
type relay struct {
	*httptest.Server
	requests      atomic.Int64
	before, after func(n int64, w http.ResponseWriter, r *http.Request) (done bool)
}

func newRelay(t *testing.T) *relay {
	t.Helper()
	target, err := url.Parse(vaulttest.Shared(t).Addr)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	relay := new(relay)
	relay.Server = serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/sys/") {
			proxy.ServeHTTP(w, r)
			return
		}
		n := relay.requests.Add(1)
		if relay.before != nil && relay.before(n, w, r) {
			return
		}
		answer := httptest.NewRecorder()
		proxy.ServeHTTP(answer, r)
		if relay.after != nil && relay.after(n, w, r) {
			return
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	})
	return relay
}

// losing drops the connection instead of sending the response to one request.
func losing(request int64) func(int64, http.ResponseWriter, *http.Request) bool {
	return func(n int64, _ http.ResponseWriter, _ *http.Request) bool {
		if n == request {
			panic(http.ErrAbortHandler)
		}
		return false
	}
}

func TestSaveCostsOneRequest(t *testing.T) {
	t.Parallel()
	relay := newRelay(t)
	store := newStore(t, vaultkv.Config{Address: relay.URL})
	var rev record.Revision
	for i, tt := range []struct {
		leased bool
		want   int64
	}{
		{false, 1},
		{false, 1},
		{true, 2}, // the first refresh sets max_versions
		{false, 1},
		{true, 1},
	} {
		before := relay.requests.Load()
		rec := newRecord("ann", uint64(i+1))
		if tt.leased {
			rec.Lease = &record.Lease{ID: "a"}
		}
		rev = save(t, store, rec, rev)
		if got := relay.requests.Load() - before; got != tt.want {
			t.Errorf("%d requests for save %d, want %d", got, i+1, tt.want)
		}
	}
}

func TestSaveWhoseResponseWasLostDoesNotConflictWithItself(t *testing.T) {
	t.Parallel()
	relay := newRelay(t)
	relay.after = losing(1)
	store := newStore(t, vaultkv.Config{Address: relay.URL})
	if rev := save(t, store, newRecord("ann", 1), 0); rev != 1 {
		t.Errorf("revision = %d, want 1", rev)
	}
	wantGeneration(t, store, "ann", 1)
	if _, err := store.Save(t.Context(), newRecord("ann", 2), 0); !errors.Is(err, record.ErrConflict) {
		t.Errorf("another Save = %v, want ErrConflict", err)
	}
}

func TestSaveThatWasOverwrittenBeforeItsRetrySucceeds(t *testing.T) {
	t.Parallel()
	relay := newRelay(t)
	config := vaultkv.Config{Prefix: prefix()}
	other := newStore(t, config)
	relay.after = func(n int64, _ http.ResponseWriter, _ *http.Request) bool {
		if n == 1 {
			if _, err := other.Save(context.Background(), newRecord("ann", 2), 1); err != nil {
				t.Error(err)
			}
			panic(http.ErrAbortHandler)
		}
		return false
	}
	config.Address = relay.URL
	store := newStore(t, config)
	if rev := save(t, store, newRecord("ann", 1), 0); rev != 1 {
		t.Errorf("revision = %d, want 1", rev)
	}
	wantGeneration(t, store, "ann", 2)
}

func TestSaveThatWasOverwrittenAndDestroyedBeforeItsRetryIsUnknown(t *testing.T) {
	t.Parallel()
	relay := newRelay(t)
	config := vaultkv.Config{Prefix: prefix()}
	other := newStore(t, config)
	relay.after = func(n int64, _ http.ResponseWriter, _ *http.Request) bool {
		if n == 1 {
			_, err := other.Save(context.Background(), newRecord("ann", 2), 1)
			if err = errors.Join(err, other.DestroyEarlier(context.Background(), key("ann"), 2)); err != nil {
				t.Error(err)
			}
			panic(http.ErrAbortHandler)
		}
		return false
	}
	config.Address = relay.URL
	_, err := newStore(t, config).Save(t.Context(), newRecord("ann", 1), 0)
	if !errors.Is(err, record.ErrStoreUnavailable) || errors.Is(err, record.ErrConflict) {
		t.Errorf("Save = %v, want ErrStoreUnavailable", err)
	}
}

func TestServerErrorsAreRetriedOnce(t *testing.T) {
	t.Parallel()
	relay := newRelay(t)
	relay.before = func(n int64, w http.ResponseWriter, _ *http.Request) bool {
		if n%2 == 1 {
			http.Error(w, `{"errors":["canary-body"]}`, http.StatusInternalServerError)
		}
		return n%2 == 1
	}
	store := newStore(t, vaultkv.Config{Address: relay.URL})
	save(t, store, newRecord("ann", 1), 0)
	wantGeneration(t, store, "ann", 1)
	if got := relay.requests.Load(); got != 4 {
		t.Errorf("%d requests, want 4", got)
	}
}

func TestErrorsSayWhatToDoAndRevealNothing(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]string{
		http.StatusTemporaryRedirect:     "address",
		http.StatusBadRequest:            "refused",
		http.StatusForbidden:             "policy must allow create, update",
		http.StatusRequestEntityTooLarge: "too large",
		http.StatusTooManyRequests:       "rate limit",
		http.StatusInternalServerError:   "see its log",
		http.StatusNotImplemented:        "see its log",
		http.StatusBadGateway:            "see its log",
		http.StatusServiceUnavailable:    "sealed",
		http.StatusNoContent:             "not that of a KV version 2 engine",
		http.StatusOK:                    "not that of a KV version 2 engine",
	} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			relay := newRelay(t)
			relay.before = func(_ int64, w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Location", "http://127.0.0.1:1/"+r.Header.Get("X-Vault-Token"))
				w.WriteHeader(status)
				if status != http.StatusNoContent {
					_, _ = w.Write([]byte(`{"errors":["canary-body ` + r.Header.Get("X-Vault-Token") + `"]}`))
				}
				return true
			}
			_, err := newStore(t, vaultkv.Config{Address: relay.URL}).Save(t.Context(), newRecord("ann", 1), 0)
			kind := record.ErrStoreUnavailable
			if status == http.StatusRequestEntityTooLarge {
				kind = record.ErrRecordTooLarge
			}
			if !errors.Is(err, kind) || errors.Is(err, record.ErrConflict) {
				t.Fatalf("Save = %v, want %v", err, kind)
			}
			for _, secret := range []string{"canary", vaulttest.Shared(t).Token} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error contains %q: %v", secret, err)
				}
			}
			if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "app/ann/crm/hubspot") {
				t.Errorf("Save = %v; want it to contain %q and the connection", err, want)
			}
		})
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	elsewhere := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") })
	relay := newRelay(t)
	relay.before = func(_ int64, w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	}
	store := newStore(t, vaultkv.Config{Address: relay.URL})
	_, _, err := store.Load(t.Context(), key("ann"))
	if !errors.Is(err, record.ErrStoreUnavailable) {
		t.Errorf("Load = %v, want ErrStoreUnavailable", err)
	}
}

func TestRequestsHaveADeadline(t *testing.T) {
	t.Parallel()
	released := make(chan struct{})
	relay := newRelay(t)
	relay.before = func(int64, http.ResponseWriter, *http.Request) bool {
		<-released
		return true
	}
	t.Cleanup(func() { close(released) })
	store := newStore(t, vaultkv.Config{Address: relay.URL, Timeout: 2 * time.Second})
	if err := store.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, _, err := store.Load(t.Context(), key("ann"))
	if !errors.Is(err, record.ErrStoreUnavailable) || !strings.Contains(err.Error(), "no response within 2s") {
		t.Errorf("Load = %v, want an error about the timeout", err)
	}
}

func TestUnreachableVaultIsReported(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	store := newStore(t, vaultkv.Config{Address: gone.URL})
	err := store.Check(t.Context())
	if !errors.Is(err, record.ErrStoreUnavailable) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("Check = %v, want an error about the refused connection", err)
	}
}
