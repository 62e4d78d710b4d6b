package broker_test

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// An outcome is the outcome of a failed attempt.
type outcome struct {
	class           record.Class
	state           record.State
	health          record.Health
	events          string
	takes           time.Duration // from the token request to the failure
	soonest, latest time.Duration // from the token request to the next one
}

// errReset is the error of a connection that the other side has reset.
var errReset = errors.New("connection reset by peer")

// never says that there is no next attempt.
const never = -1 * time.Second

// TestOutcomesOfARefresh checks everything that follows from a token endpoint's answer, for
// a connection whose token has expired and that is called once a second.
// TestTokenEndpointAnswers has the same answers, and more, on the wire.
func TestOutcomesOfARefresh(t *testing.T) {
	t.Parallel()
	answer := func(status int, body string) func() (*http.Response, error) {
		return func() (*http.Response, error) { return brokertest.Response(status, body), nil }
	}
	later := func(status int, retryAfter func() string) func() (*http.Response, error) {
		return func() (*http.Response, error) {
			resp := brokertest.Response(status, "")
			resp.Header.Set("Retry-After", retryAfter())
			return resp, nil
		}
	}
	parked := outcome{record.ClassPermanent, record.StateInvalid, record.HealthNeedsAuth, "failed", 0, never, never}
	paused := outcome{record.ClassConfiguration, record.StateCallable, record.HealthPendingRefresh, "failed", 0, 5 * time.Minute, 5*time.Minute + time.Second}
	refused := outcome{record.ClassRefused, record.StateCallable, record.HealthPendingRefresh, "pending", 0, 30 * time.Second, 34 * time.Second}
	transient := outcome{record.ClassTransient, record.StateCallable, record.HealthPendingRefresh, "pending", 0, 500 * time.Millisecond, time.Second}
	ambiguous := transient
	ambiguous.class = record.ClassAmbiguous
	asTold := transient
	asTold.soonest, asTold.latest = 10*time.Minute-time.Second, 10*time.Minute+time.Second // dates are whole seconds
	hung := ambiguous
	hung.takes, hung.soonest, hung.latest = 20*time.Second, 20*time.Second, 21*time.Second

	for name, test := range map[string]struct {
		answer func() (*http.Response, error)
		want   outcome
	}{
		"invalid_grant":          {answer(400, `{"error":"invalid_grant"}`), parked},
		"invalid_grant with 401": {answer(401, `{"error":"invalid_grant"}`), parked},
		"invalid_client":         {answer(401, `{"error":"invalid_client"}`), paused},
		"unauthorized_client":    {answer(400, `{"error":"unauthorized_client"}`), refused},
		"unsupported_grant_type": {answer(400, `{"error":"unsupported_grant_type"}`), paused},
		"invalid_scope":          {answer(400, `{"error":"invalid_scope"}`), refused},
		"invalid_request":        {answer(400, `{"error":"invalid_request"}`), refused},
		"an unknown code":        {answer(400, `{"error":"no_coffee"}`), refused},
		"400 without a body":     {answer(400, ``), refused},
		"401":                    {answer(401, ``), refused},
		"403":                    {answer(403, `<html>`), transient},
		"307":                    {answer(307, ``), transient},
		"408":                    {answer(408, ``), ambiguous},
		"429":                    {answer(429, ``), transient},
		"429 with seconds":       {later(429, func() string { return "600" }), asTold},
		"429 with a date":        {later(429, func() string { return time.Now().Add(10 * time.Minute).UTC().Format(http.TimeFormat) }), asTold},
		"500":                    {answer(500, ``), ambiguous},
		"503":                    {answer(503, ``), transient},
		"503 with seconds":       {later(503, func() string { return "600" }), asTold},
		"200 with garbage":       {answer(200, `<html>`), ambiguous},
		"only a refresh token":   {answer(200, `{"refresh_token":"r2"}`), transient},
		"10 MB":                  {answer(200, `{"access_token":"a2","x":"`+strings.Repeat("x", 10<<20)+`"}`), ambiguous},
		"hangs":                  {func() (*http.Response, error) { time.Sleep(20 * time.Second); return nil, errReset }, hung},
		"reset":                  {func() (*http.Response, error) { return nil, errReset }, ambiguous},
		"a refusal cut short":    {func() (*http.Response, error) { return cutAnswer(400, `{"error":"invalid_`), nil }, ambiguous},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				var first, second atomic.Pointer[time.Time] // when the requests were sent
				h.provider.Respond = func(n int, _ url.Values) (*http.Response, error) {
					now := time.Now()
					if n == 1 {
						first.Store(&now)
					} else {
						second.CompareAndSwap(nil, &now)
					}
					return test.answer()
				}
				h.mustImport("a1", "r1", issued(2*time.Hour))
				time.Sleep(test.want.takes + 100*time.Millisecond)
				wantOutcome(t, h, test.want)
				for begun := time.Now(); second.Load() == nil && time.Since(begun) < time.Hour; time.Sleep(time.Second) {
					if _, err := h.Source(h.key).Token(t.Context()); err == nil {
						t.Fatal("got a token")
					}
				}
				if second.Load() == nil {
					if test.want.latest != never {
						t.Errorf("got no other attempt within an hour, want one after %v to %v", test.want.soonest, test.want.latest)
					}
				} else if wait := second.Load().Sub(*first.Load()); wait < test.want.soonest || wait > test.want.latest {
					t.Errorf("the next attempt came after %v, want %v to %v", wait, test.want.soonest, test.want.latest)
				}
			})
		})
	}
}

// wantOutcome checks what is stored, shown and announced after the first attempt.
func wantOutcome(t *testing.T, h *harness, want outcome) {
	t.Helper()
	synctest.Wait()
	rec := h.record(h.key)
	if rec.Cycle.Class != want.class {
		t.Errorf("the record has class %s (%s), want %s", rec.Cycle.Class, rec.Cycle.Code, want.class)
	}
	if rec.Lease != nil {
		t.Errorf("the record has a lease: %+v", rec.Lease)
	}
	if rec.Credentials == nil {
		t.Error("the record has lost its credentials")
	}
	view := h.wantView(h.key, want.state, want.health)
	if view.LastRefreshFailedAt.IsZero() {
		t.Error("the connection does not show when its refresh failed")
	}
	isPermanent := want.class == record.ClassPermanent
	if view.CredentialsExpireAt.IsZero() == isPermanent {
		t.Errorf("got %v for the end of the credentials, want one only for a parked connection", view.CredentialsExpireAt)
	}
	if got := h.events.types(); got != want.events {
		t.Errorf("got events %q, want %q", got, want.events)
	}
	_, err := h.Source(h.key).Token(t.Context())
	failed := wantTokenError(t, err, want.class)
	if failed.Parked != isPermanent {
		t.Errorf("got parked %t, want %t", failed.Parked, isPermanent)
	}
	if !failed.RetryAt.After(time.Now()) {
		t.Errorf("got %v for the next attempt, want a time to come", failed.RetryAt)
	}
}

// cutAnswer returns a response whose body breaks off.
func cutAnswer(status int, body string) *http.Response {
	resp := brokertest.Response(status, "")
	resp.Body = io.NopCloser(io.MultiReader(strings.NewReader(body), errorReader{}))
	return resp
}

type errorReader struct{}

// Read implements [io.Reader].
func (errorReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
