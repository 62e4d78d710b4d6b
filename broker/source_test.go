package broker_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Code that takes an oauth2.TokenSource gets the same tokens as everybody else, refreshed
// when they are due, and waits no longer than its context allows.
func TestSourceIsATokenSourceOfOAuth2(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(time.Minute))
		source := h.Source(h.key).OAuth2(t.Context())
		if got, err := source.Token(); err != nil || got.AccessToken != "a1" || got.TokenType != "Bearer" || !got.Valid() {
			t.Fatalf("got %v, %v; want the imported token", got, err)
		}
		time.Sleep(2 * time.Hour)
		got, err := source.Token()
		if want := h.token(h.key); err != nil || got.AccessToken != want || got.AccessToken == "a1" || !got.Valid() {
			t.Errorf("after it has expired: got %v, %v; want a fresh token", got, err)
		}

		time.Sleep(2 * time.Hour)
		h.provider.Deliver = func(int) error { time.Sleep(10 * time.Second); return nil }
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		if _, err := h.Source(h.key).OAuth2(ctx).Token(); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Second {
			t.Errorf("got %v after %v, want the context's end", err, time.Since(begun))
		}
		synctest.Wait()

		none := h.of("nobody")
		if _, err := h.Source(none).OAuth2(t.Context()).Token(); !errors.Is(err, record.ErrConnectionNotFound) {
			t.Errorf("got %v, want ErrConnectionNotFound", err)
		}
	})
}
