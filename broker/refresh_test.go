package broker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func TestStormOnAnExpiredTokenRedeemsOnce(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		release := h.holdAnswers("r1")
		h.mustImport("a1", "r1", issued(0))
		time.Sleep(2 * time.Hour)

		first, cancel := context.WithCancel(t.Context())
		const callers = 10_000
		var wg sync.WaitGroup
		tokens := make([]string, callers)
		for i := range callers {
			ctx := t.Context()
			if i == 0 {
				ctx = first
			}
			wg.Go(func() {
				tok, err := h.Source(h.key).Token(ctx)
				if err == nil {
					tokens[i] = tok.AccessToken.Reveal()
				} else if i != 0 || !errors.Is(err, context.Canceled) {
					t.Errorf("caller %d: %v", i, err)
				}
			})
			if i == 0 {
				synctest.Wait() // so that it is this caller who starts the refresh
			}
		}
		synctest.Wait()
		cancel() // the caller who started it goes away
		synctest.Wait()
		close(release)
		wg.Wait()
		if got := len(h.provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1", got)
		}
		for i, tok := range tokens[1:] {
			if !strings.HasPrefix(tok, "access-1-") {
				t.Fatalf("caller %d got %q", i+1, tok)
			}
		}
	})
}

func TestStormAcrossReplicasRedeemsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := replicas(t, 3)
		provider := all[0].provider
		provider.Grant("r1")
		provider.Deliver = func(int) error { time.Sleep(10 * time.Second); return nil }
		all[0].mustImport("a1", "r1", issued(0))
		time.Sleep(2 * time.Hour)
		const callers = 10_000
		var wg sync.WaitGroup
		for i := range callers {
			h := all[i%len(all)]
			wg.Go(func() {
				if tok, err := h.Source(h.key).Token(t.Context()); err != nil || tok.Generation != 2 {
					t.Errorf("caller %d: got generation %d, %v; want 2", i, tok.Generation, err)
				}
			})
		}
		wg.Wait()
		if got := len(provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1", got)
		}
	})
}

func TestTwoReplicasRedeemOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		both := replicas(t, 2)
		one, two, provider := both[0], both[1], both[0].provider
		provider.Grant("r1")
		provider.Deliver = func(int) error { time.Sleep(10 * time.Second); return nil }
		one.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		if got := two.token(two.key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("the second replica got %q", got)
		}
		if got := len(provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1", got)
		}
	})
}

func TestLeaseOfADeadReplicaIsTakenOverAfterItsDuration(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		leaveLease(t, h)
		begun := time.Now()
		h.token(h.key)
		if waited := time.Since(begun); waited < 45*time.Second || waited > 47*time.Second {
			t.Errorf("took over after %v, want 45s", waited)
		}
		if got := h.record(h.key); got.Lease != nil || got.Cycle.Ambiguous != 0 {
			t.Errorf("got lease %v, ambiguous %d after a success", got.Lease, got.Cycle.Ambiguous)
		}
	})
}

func TestFailedReadInterruptsTheObservationOfALease(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		leaveLease(t, h)
		begun := time.Now()
		h.store.Fail = func(op string, _ record.Key) error {
			if at := time.Since(begun); op == brokertest.OpLoad && at > 30*time.Second && at < 31*time.Second {
				return record.ErrStoreUnavailable
			}
			return nil
		}
		for {
			_, err := h.Source(h.key).Token(t.Context())
			if err == nil {
				break
			}
			if !errors.Is(err, record.ErrStoreUnavailable) {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if waited := time.Since(begun); waited < 75*time.Second {
			t.Errorf("took over after %v, though it could not see the lease at 30s", waited)
		}
	})
}

func TestLeaseOfAnEarlierProcessIsTakenOverAtOnceOnAnExclusiveStore(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.store.Exclusive = true
		h.provider.Grant("r1")
		leaveLease(t, h)
		begun := time.Now()
		h.token(h.key)
		if waited := time.Since(begun); waited != 0 {
			t.Errorf("waited %v", waited)
		}
	})
}

func TestRefusalAfterATakeoverWaitsForTheFormerHolder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		both := replicas(t, 2)
		slow, h, provider := both[0], both[1], both[0].provider
		provider.Grant("r1")
		// The first replica redeems, and is paused before it can save.
		paused := make(chan struct{})
		var slowly atomic.Bool
		provider.Deliver = func(n int) error {
			if n == 1 {
				slowly.Store(true)
				<-paused
			}
			return nil
		}
		slow.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		if !slowly.Load() {
			t.Fatal("the first replica does not redeem")
		}
		result := make(chan error, 1)
		go func() {
			_, err := h.Source(h.key).Token(context.Background())
			result <- err
		}()
		time.Sleep(50 * time.Second) // long enough for a takeover, which is refused
		synctest.Wait()
		if got := len(provider.Requests()); got != 2 {
			t.Fatalf("got %d token requests, want 2", got)
		}
		close(paused)
		if err := <-result; err != nil {
			t.Errorf("the second replica did not adopt the token of the first: %v", err)
		}
		if rec := h.record(h.key); rec.IsParked() || !strings.HasPrefix(rec.Credentials.AccessToken.Reveal(), "access-1-") {
			t.Error("the record has not the token that the first replica got")
		}
		if got := h.events.types() + slow.events.types(); got != "" {
			t.Errorf("got events %q, want none", got)
		}
	})
}

// leaveLease stores an expired connection whose lease somebody holds who is gone.
func leaveLease(t *testing.T, h *harness) {
	t.Helper()
	rec := &record.Record{
		Key: h.key, Enabled: true, Generation: 1,
		Credentials: &record.Credentials{
			AccessToken: secret.New("a1"), RefreshToken: secret.New("r1"),
			IssuedAt: time.Now().Add(-2 * time.Hour), Expiry: time.Now().Add(-time.Hour), FromImport: true,
		},
		Lease: &record.Lease{ID: "gone", Duration: 45 * time.Second, RefreshToken: secret.New("r1").Hash()},
	}
	if _, err := h.store.Save(t.Context(), rec, 0); err != nil {
		t.Fatal(err)
	}
}

func TestTokenIsRefreshedAheadOfItsExpiry(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(0))
		time.Sleep(50 * time.Minute)
		if got := h.token(h.key); got != "a1" {
			t.Errorf("ten minutes before the expiry: got %q, want a1", got)
		}
		time.Sleep(6 * time.Minute)
		begun := time.Now()
		h.provider.Deliver = func(int) error { time.Sleep(3 * time.Second); return nil }
		if got := h.token(h.key); got != "a1" || time.Since(begun) != 0 {
			t.Errorf("four minutes before: got %q after %v, want a1 at once", got, time.Since(begun))
		}
		time.Sleep(4 * time.Second)
		if got := h.token(h.key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("after the refresh: got %q", got)
		}
	})
}

func TestValidTokenIsServedWhateverHappensToItsRefresh(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Respond = func(int, url.Values) (*http.Response, error) { return brokertest.Response(503, "down"), nil }
		h.mustImport("a1", "r1", issued(0))
		time.Sleep(56 * time.Minute)
		for range 200 { // until the expiry
			if got := h.token(h.key); got != "a1" {
				t.Fatalf("got %q", got)
			}
			time.Sleep(time.Second)
		}
		time.Sleep(time.Minute)
		var failed *record.TokenError
		if _, err := h.Source(h.key).Token(t.Context()); !errors.As(err, &failed) || failed.Class != record.ClassTransient || failed.RetryAt.IsZero() {
			t.Errorf("got %v, want a transient TokenError", err)
		}
	})
}

func TestBackoffGivesUpAndRecovers(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		var down atomic.Bool
		down.Store(true)
		h.provider.Respond = func(int, url.Values) (*http.Response, error) {
			if down.Load() {
				return brokertest.Response(503, "down"), nil
			}
			return nil, nil
		}
		h.mustImport("a1", "r1", issued(2*time.Hour))
		time.Sleep(2 * time.Minute)
		if got := h.events.types(); got != "pending" {
			t.Errorf("after the first failures: got events %q, want pending", got)
		}
		time.Sleep(time.Hour)
		if got := h.events.types(); got != "pending failed" {
			t.Errorf("after giving up: got events %q, want pending failed", got)
		}
		attempts := len(h.provider.Requests())
		if attempts < 8 || attempts > 25 {
			t.Errorf("got %d attempts in 15 minutes of backoff", attempts)
		}
		time.Sleep(24 * time.Hour)
		if got := len(h.provider.Requests()); got != attempts {
			t.Errorf("got %d attempts after giving up, unasked", got-attempts)
		}
		down.Store(false)
		h.token(h.key)
		if got := h.events.types(); got != "pending failed recovered" {
			t.Errorf("got events %q", got)
		}
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]func() string{
		"seconds": func() string { return "600" },
		"date":    func() string { return time.Now().Add(10 * time.Minute).UTC().Format(http.TimeFormat) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				h.provider.Grant("r1")
				h.provider.Respond = func(n int, _ url.Values) (*http.Response, error) {
					if n > 1 {
						return nil, nil
					}
					resp := brokertest.Response(429, "slow down")
					resp.Header.Set("Retry-After", value())
					return resp, nil
				}
				h.mustImport("a1", "r1", issued(2*time.Hour))
				synctest.Wait()
				time.Sleep(9*time.Minute + 58*time.Second)
				if got := len(h.provider.Requests()); got != 1 {
					t.Errorf("got %d attempts before the time, want 1", got)
				}
				time.Sleep(5 * time.Second)
				if got := len(h.provider.Requests()); got != 2 {
					t.Errorf("got %d attempts after it, want 2", got)
				}
			})
		})
	}
}

func TestDeadConnectionCostsTheTokenEndpointOneCall(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(2*time.Hour))
		for range 47 {
			var failed *record.TokenError
			_, err := h.Source(h.key).Token(t.Context())
			if !errors.As(err, &failed) || !failed.Parked || failed.Code != "invalid_grant" || !failed.FirstRefresh {
				t.Fatalf("got %v, want a TokenError of a parked connection", err)
			}
			time.Sleep(time.Hour)
		}
		if got := len(h.provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1", got)
		}
		if got := h.events.types(); got != "failed" {
			t.Errorf("got events %q, want failed", got)
		}
		if rec := h.record(h.key); rec.Credentials == nil {
			t.Error("the credentials were cleared before the retention was over")
		}
		view, err := h.Connection(t.Context(), h.key)
		if err != nil || view.State != record.StateInvalid || view.Health != record.HealthNeedsAuth {
			t.Errorf("got state %s, health %s, %v", view.State, view.Health, err)
		}

		time.Sleep(2 * time.Hour) // the retention is over: the sweep clears the credentials
		if rec := h.record(h.key); rec.Credentials != nil {
			t.Error("the credentials were not cleared")
		}
		var failed *record.TokenError
		if _, err := h.Source(h.key).Token(t.Context()); !errors.As(err, &failed) || !failed.Parked || failed.Code != "no_credentials" {
			t.Errorf("got %v, want a TokenError for want of credentials", err)
		}
		if view, err := h.Connection(t.Context(), h.key); err != nil || view.State != record.StateAdded || view.Health != record.HealthNeedsAuth {
			t.Errorf("got state %s, health %s, %v", view.State, view.Health, err)
		}
	})
}

func TestWrongClientSecretCostsNobodysCredentials(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		const connections = 1000
		good := h.config.Connectors[acme].Client
		setClient := func(client record.Client) {
			h.configureConnector(acme, func(c *record.Connector) { c.Client = client })
		}
		setClient(record.Client{ID: "client", Secret: secret.New("wrong")})
		keys := make([]record.Key, connections)
		for i := range keys {
			keys[i] = h.key
			keys[i].Consumer = fmt.Sprint("customer ", i)
			refresh := fmt.Sprintf("r-%d", i)
			h.provider.Grant(refresh)
			if _, _, err := h.importBody(keys[i], fmt.Sprintf(`{"credentials":{"access_token":"a","refresh_token":%q,%s}}`, refresh, issued(2*time.Hour))); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		const rounds = 12
		refused := func(keys []record.Key) {
			for _, key := range keys {
				if _, err := h.Source(key).Token(t.Context()); err == nil {
					t.Fatal("got a token")
				}
			}
		}
		for range rounds {
			refused(keys[:20])
			time.Sleep(2 * time.Minute)
			refused(keys[20:40])
			time.Sleep(3 * time.Minute)
		}
		refused(keys)
		if got := len(h.provider.Requests()); got < rounds-1 || got > rounds+1 {
			t.Errorf("got %d token requests in an hour, want one every 5 minutes", got)
		}
		if got := h.events.types(); got != "failed" {
			t.Errorf("got events %q, want one failed for the connector", got)
		}
		for _, key := range keys {
			if rec := h.record(key); rec.Credentials == nil || rec.IsParked() || !rec.Cycle.CredentialsExpireAt.IsZero() {
				t.Fatalf("%s has lost its credentials, or will", key.Consumer)
			}
		}

		synctest.Wait() // a flight under way would keep the client that it began with
		setClient(good)
		for _, key := range keys {
			h.token(key)
		}
	})
}

func TestLongLivedTokenIsUsedUntilItExpires(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		key := h.at(long)
		if _, _, err := h.importBody(key, `{"credentials":{"access_token":"a1",`+issued(0)+`}}`); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Minute)
		if got := h.token(key); got != "a1" {
			t.Errorf("got %q, want a1", got)
		}
		time.Sleep(2 * time.Minute)
		for range 3 {
			var failed *record.TokenError
			if _, err := h.Source(key).Token(t.Context()); !errors.As(err, &failed) || !failed.Parked {
				t.Errorf("got %v, want a TokenError of a parked connection", err)
			}
		}
		view, err := h.Connection(t.Context(), key)
		if err != nil || view.Health != record.HealthNeedsAuth {
			t.Errorf("got health %s, %v, want needs_auth", view.Health, err)
		}
		if got := h.events.types(); got != "failed" {
			t.Errorf("got events %q, want one failed", got)
		}
		if got := len(h.provider.Requests()); got != 0 {
			t.Errorf("got %d token requests, want none", got)
		}
	})
}

func TestClientCredentialsAreFetchedWhenTheTokenExpires(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		key := h.at(cc)
		if _, _, err := h.importBody(key, `{"credentials":{"access_token":"a1",`+issued(0)+`}}`); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		if got := h.token(key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("got %q", got)
		}
		if got := h.provider.Requests()[0].Get("grant_type"); got != "client_credentials" {
			t.Errorf("got grant_type %q", got)
		}
	})
}

func TestTokenIsServedFromMemoryUntilTheStoreTakesIt(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		var down atomic.Bool
		h.store.Fail = func(string, record.Key) error {
			if down.Load() {
				return fmt.Errorf("%w: sealed", record.ErrStoreUnavailable)
			}
			return nil
		}
		h.provider.Deliver = func(int) error { down.Store(true); return nil }
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		if got := h.token(h.key); !strings.HasPrefix(got, "access-1-") {
			t.Errorf("got %q, want the new token", got)
		}
		if err := h.Ready(t.Context()); !errors.Is(err, record.ErrStoreUnavailable) {
			t.Errorf("ready: got %v, want unavailable", err)
		}
		time.Sleep(30 * time.Minute)
		h.token(h.key)
		down.Store(false)
		time.Sleep(10 * time.Second)
		if err := h.Ready(t.Context()); err != nil {
			t.Errorf("ready after the outage: %v", err)
		}
		if rec := h.record(h.key); !strings.HasPrefix(rec.Credentials.RefreshToken.Reveal(), "refresh-1-") || rec.Lease != nil {
			t.Error("the new token was not saved")
		}
		if got := len(h.provider.Requests()); got != 1 {
			t.Errorf("got %d token requests, want 1", got)
		}
	})
}

func TestShutdownFinishesARedeemUnderWay(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		h.provider.Deliver = func(int) error { time.Sleep(10 * time.Second); return nil }
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		begun := time.Now()
		if err := h.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(begun); waited != 10*time.Second {
			t.Errorf("closed after %v, want 10s", waited)
		}
		rec := h.record(h.key)
		if !strings.HasPrefix(rec.Credentials.RefreshToken.Reveal(), "refresh-1-") || rec.Cycle.Queued || rec.Lease != nil {
			t.Error("the answer was not saved")
		}
		if _, err := h.Source(record.Key{Application: "app", Consumer: "other", Connector: acme}).Token(t.Context()); !errors.Is(err, broker.ErrShuttingDown) {
			t.Errorf("got %v, want ErrShuttingDown", err)
		}
	})
}

func TestStoreOutageServesAValidToken(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		var down atomic.Bool
		h.store.Fail = func(string, record.Key) error {
			if !down.Load() {
				return nil
			}
			time.Sleep(5 * time.Second) // a store that hangs
			return record.ErrStoreUnavailable
		}
		h.mustImport("a1", "r1", issued(0))
		down.Store(true)
		time.Sleep(10 * time.Minute)
		begun := time.Now()
		for range 100 {
			if got := h.token(h.key); got != "a1" {
				t.Fatalf("got %q", got)
			}
		}
		if waited := time.Since(begun); waited > time.Second {
			t.Errorf("100 calls waited %v for the store", waited)
		}
		other := h.of("never read")
		if _, err := h.Source(other).Token(t.Context()); !errors.Is(err, record.ErrStoreUnavailable) {
			t.Errorf("got %v, want ErrStoreUnavailable", err)
		}
	})
}

func TestChangeByAnotherReplicaIsSeenWithinTheCacheTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		both := replicas(t, 2)
		one, two := both[0], both[1]
		one.mustImport("a1", "r1", issued(0))
		two.token(two.key)
		time.Sleep(time.Second)
		one.mustImport("a2", "r2", issued(0))
		time.Sleep(broker.DefaultCacheTTL)
		if got := two.token(two.key); got != "a2" {
			t.Errorf("got %q, want a2", got)
		}
	})
}
