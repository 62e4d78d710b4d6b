package broker_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestSourceIsATokenSourceOfOAuth2(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(time.Minute))
		source := h.Source(h.key).OAuth2(t.Context())
		mustGet := func() *oauth2.Token {
			t.Helper()
			got, err := source.Token()
			if err != nil {
				t.Fatal(err)
			}
			if got.TokenType != "Bearer" {
				t.Errorf("got type %q, want Bearer", got.TokenType)
			}
			if !got.Valid() {
				t.Errorf("got a token that is not valid: it expires at %v", got.Expiry)
			}
			return got
		}
		if got := mustGet(); got.AccessToken != "a1" {
			t.Errorf("got %q, want the imported token", got.AccessToken)
		}
		time.Sleep(2 * time.Hour)
		got := mustGet()
		if got.AccessToken == "a1" {
			t.Error("got the expired token")
		}
		if want := h.token(h.key); got.AccessToken != want {
			t.Errorf("got %q, want %q as from the Source", got.AccessToken, want)
		}
		if _, err := h.Source(h.of("unknown")).OAuth2(t.Context()).Token(); !errors.Is(err, record.ErrConnectionNotFound) {
			t.Errorf("got %v, want ErrConnectionNotFound", err)
		}
	})
}

func TestTokenSourceOfOAuth2WaitsAsLongAsItsContextAllows(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.provider.Grant("r1")
		h.mustImport("a1", "r1", issued(2*time.Hour))
		synctest.Wait()
		time.Sleep(2 * time.Hour)
		h.provider.Deliver = func(int) error { time.Sleep(10 * time.Second); return nil }
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		if _, err := h.Source(h.key).OAuth2(ctx).Token(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want DeadlineExceeded", err)
		}
		if waited := time.Since(begun); waited != time.Second {
			t.Errorf("waited %v, want 1s", waited)
		}
		synctest.Wait()
	})
}
