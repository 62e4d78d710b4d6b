package webhook

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func TestAFailedDeliveryIsRetriedAtTheDocumentedGaps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: always(500)}
		d, log := start(t, r)
		d.Emit(t.Context(), testEvent("event-1"))
		time.Sleep(48 * time.Hour)
		synctest.Wait()

		got := r.all()
		if len(got) != 9 {
			t.Fatalf("got %d attempts, want 9", len(got))
		}
		wants := []time.Duration{3 * time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour}
		for i, want := range wants {
			if gap := got[i+1].at.Sub(got[i].at); gap < want || gap > want+want/10 {
				t.Errorf("gap %d: got %v, want %v and at most a tenth more", i+1, gap, want)
			}
		}
		for i, a := range got {
			if a.attempt != i+1 {
				t.Errorf("attempt %d says execution_attempt %d", i+1, a.attempt)
			}
			if got, want := a.header.Get("X-Apideck-Signature"), signature(secret.New("hook-s3cret"), a.body); got != want {
				t.Errorf("attempt %d: signature %s, want %s", i+1, got, want)
			}
			for name, want := range map[string]string{
				"X-Apideck-Event-Type":      "vault.connection.token_refresh.failed",
				"X-Apideck-Idempotency-Key": "event-1", "Content-Type": "application/json", "User-Agent": userAgent,
			} {
				if got := a.header.Get(name); got != want {
					t.Errorf("attempt %d: %s: %q, want %q", i+1, name, got, want)
				}
			}
		}
		if !strings.Contains(log.String(), "giving up") || !strings.Contains(log.String(), "event-1") {
			t.Errorf("the log does not name the abandoned event: %s", log)
		}
		if err := stop(d); err != nil {
			t.Error(err)
		}
	})
}

func TestA2xxEndsTheDelivery(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 204, 299} {
		synctest.Test(t, func(t *testing.T) {
			r := &receiver{answer: always(status)}
			d, _ := start(t, r)
			d.Emit(t.Context(), testEvent("e"))
			time.Sleep(time.Hour)
			if got := len(r.all()); got != 1 {
				t.Errorf("%d: got %d attempts, want 1", status, got)
			}
			if err := d.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestARedirectIsAFailureAndNotFollowed(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 302, 303, 307, 308} {
		synctest.Test(t, func(t *testing.T) {
			r := &receiver{answer: func(*http.Request) (int, http.Header) {
				return status, http.Header{"Location": {"https://elsewhere.example.com/"}}
			}}
			d, _ := start(t, r)
			d.Emit(t.Context(), testEvent("e"))
			time.Sleep(4 * time.Minute)
			for _, a := range r.all() {
				if a.url != hookURL {
					t.Errorf("%d was followed to %s", status, a.url)
				}
			}
			if got := len(r.all()); got != 2 {
				t.Errorf("%d: got %d attempts, want 2", status, got)
			}
			_ = stop(d)
		})
	}
}

func TestAnAttemptTimesOutAfterAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: hang}
		d, log := start(t, r)
		d.Emit(t.Context(), testEvent("e"))
		time.Sleep(59 * time.Second)
		synctest.Wait()
		if log.String() != "" {
			t.Errorf("the attempt ended too early: %s", log)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !strings.Contains(log.String(), `"error":"timeout"`) {
			t.Errorf("no timeout in the log: %s", log)
		}
		_ = stop(d)
	})
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: func(*http.Request) (int, http.Header) { return 503, http.Header{"Retry-After": {"3600"}} }}
		d, _ := start(t, r)
		d.Emit(t.Context(), testEvent("e"))
		time.Sleep(59 * time.Minute)
		if got := len(r.all()); got != 1 {
			t.Errorf("got %d attempts before Retry-After, want 1", got)
		}
		time.Sleep(2 * time.Minute)
		if got := len(r.all()); got != 2 {
			t.Errorf("got %d attempts after Retry-After, want 2", got)
		}
		_ = stop(d)
	})
	if wait, again := nextAttempt(1, 0, 1000*time.Hour); wait != maxRetryAfter || !again {
		t.Errorf("got %v, %t, want it capped at %v", wait, again, maxRetryAfter)
	}
	if _, again := nextAttempt(2, 13*time.Hour, 1000*time.Hour); again {
		t.Error("an attempt is planned after more than 24 hours")
	}
}

func TestASlowEndpointDoesNotDelayOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: func(req *http.Request) (int, http.Header) {
			if req.URL.Host == "slow.example.com" {
				return hang(req)
			}
			return 200, http.Header{}
		}}
		secret := secret.New("s")
		d, _ := start(t, r, Endpoint{URL: "https://slow.example.com/", Secret: secret}, Endpoint{URL: "https://fast.example.com/", Secret: secret})
		begun := time.Now()
		for range 100 {
			d.Emit(t.Context(), testEvent("e"))
		}
		synctest.Wait()
		fast := 0
		for _, a := range r.all() {
			if strings.Contains(a.url, "fast") && a.at.Equal(begun) {
				fast++
			}
		}
		if fast != 100 {
			t.Errorf("%d deliveries to the fast endpoint arrived at once, want 100", fast)
		}
		if slow := len(r.all()) - fast; slow != maxInFlight {
			t.Errorf("%d concurrent attempts at the slow endpoint, want %d", slow, maxInFlight)
		}
		_ = stop(d)
	})
}

func TestEmitNeverBlocksAndCountsWhatItDrops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, log := start(t, &receiver{answer: hang})
		for range maxPending {
			d.Emit(t.Context(), testEvent("kept"))
		}
		d.Emit(t.Context(), testEvent("event-too-many"))
		if got := d.Dropped(); got != 1 {
			t.Errorf("dropped %d, want 1", got)
		}
		if !strings.Contains(log.String(), "event-too-many") {
			t.Errorf("the log does not name the event: %s", log)
		}
		_ = stop(d)
		d.Emit(t.Context(), testEvent("event-too-late"))
		if got := d.Dropped(); got != 2 || !strings.Contains(log.String(), "event-too-late") {
			t.Errorf("after Close: dropped %d, want 2, and the event in the log", got)
		}
	})
}

func TestPendingDeliveriesFollowTheConfiguration(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: always(500)}
		d, log := start(t, r,
			Endpoint{URL: "https://stays.example.com/", Secret: secret.New("old")},
			Endpoint{URL: "https://goes.example.com/", Secret: secret.New("old")})
		d.Emit(t.Context(), testEvent("event-1"))
		synctest.Wait()
		logger := d.cfg.Logger
		err := d.Configure(Config{Endpoints: []Endpoint{{URL: "https://stays.example.com/", Secret: secret.New("new")}}, Logger: logger})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		got := r.all()
		if len(got) != 3 {
			t.Fatalf("got %d attempts, want 3", len(got))
		}
		last := got[2]
		if last.url != "https://stays.example.com/" || last.header.Get(headerSignature) != signature(secret.New("new"), last.body) {
			t.Errorf("the third attempt went to %s, or has the old secret's signature", last.url)
		}
		if !strings.Contains(log.String(), "the endpoint was removed") {
			t.Errorf("the log does not say that the endpoint was removed: %s", log)
		}
		// An invalid configuration changes nothing.
		if err := d.Configure(Config{Endpoints: []Endpoint{{URL: "http://stays.example.com/"}}}); err == nil {
			t.Error("an http URL was accepted")
		}
		d.Emit(t.Context(), testEvent("event-2"))
		synctest.Wait()
		if got := len(r.all()); got != 4 {
			t.Errorf("got %d attempts, want 4", got)
		}
		_ = stop(d)
	})
}

func TestCloseWaitsForAttemptsInProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, _ := start(t, &receiver{answer: func(*http.Request) (int, http.Header) {
			time.Sleep(5 * time.Second)
			return 200, http.Header{}
		}})
		for range 2 * maxInFlight { // the second half waits for its turn
			d.Emit(t.Context(), testEvent("e"))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		begun := time.Now()
		if err := d.Close(ctx); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took != 10*time.Second {
			t.Errorf("Close took %v, want 10s", took)
		}
	})
}

func TestCloseReportsUndeliveredEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, log := start(t, &receiver{answer: func(req *http.Request) (int, http.Header) {
			if req.Header.Get(headerIdempotencyKey) == "event-hangs" {
				return hang(req)
			}
			return 500, http.Header{}
		}})
		d.Emit(t.Context(), testEvent("event-fails"))
		synctest.Wait()
		d.Emit(t.Context(), testEvent("event-hangs"))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begun := time.Now()
		err := d.Close(ctx)
		if err == nil || !strings.HasPrefix(err.Error(), "2 webhook deliveries") {
			t.Errorf("got %v, want 2 deliveries", err)
		}
		if took := time.Since(begun); took != 3*time.Second {
			t.Errorf("Close took %v, want 3s", took)
		}
		for _, id := range []string{"event-fails", "event-hangs"} {
			if !strings.Contains(log.String(), id) {
				t.Errorf("the log does not name %s: %s", id, log)
			}
		}
	})
}

func TestLogsContainNeitherSecretsNorTheURLsPath(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: always(400)}
		d, log := start(t, r, Endpoint{URL: strings.Replace(hookURL, "//", "//user-s3cret:pass-s3cret@", 1), Secret: secret.New("hook-s3cret")})
		d.Emit(t.Context(), testEvent("e"))
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		_ = stop(d)
		if strings.Contains(log.String(), "s3cret") {
			t.Errorf("a secret is in the log: %s", log)
		}
		if !strings.Contains(log.String(), `"endpoint":"https://ops.example.com"`) || !strings.Contains(log.String(), `"status":400`) {
			t.Errorf("the log lacks the endpoint or the status: %s", log)
		}
	})
}
