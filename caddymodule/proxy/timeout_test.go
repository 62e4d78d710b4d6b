package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func TestProxyTimesOut(t *testing.T) {
	gone := make(chan struct{})
	d := caddytest.NewDownstream(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
			close(gone)
		}
	})
	srv, _ := d.Serve(t, "")
	caddytest.RoundTrip(t, caddytest.NewCall(t.Context(), t, srv, "GET", d.URL, nil)) // opens a connection
	resp := caddytest.RoundTrip(t, caddytest.NewCall(t.Context(), t, srv, "GET", d.URL+"/hang", nil, "X-Apideck-Timeout", "500"))
	caddytest.WantError(t, resp, http.StatusGatewayTimeout, "ProxyTimedOutError")
	if resp.Header.Get("X-Apideck-Request-Id") == "" || resp.Header.Get("X-Apideck-Downstream-Error") != "false" {
		t.Errorf("got %v", resp.Header)
	}
	caddytest.Soon(t, gone, "the end of the request downstream")
}

func TestProxyTimeoutThatMakesNoSenseIsTheDefault(t *testing.T) {
	h := &Handler{}
	h.Timeout, h.MaxTimeout = 28e9, 120e9
	for value, want := range map[string]time.Duration{
		"": 28 * time.Second, "0": 28 * time.Second, "-1": 28 * time.Second, "x": 28 * time.Second, "1.5": 28 * time.Second,
		"1": time.Millisecond, " 30000 ": 30 * time.Second, "120001": 2 * time.Minute, "9223372036854775807": 2 * time.Minute,
		"99999999999999999999": 28 * time.Second,
	} {
		r := httptest.NewRequest(http.MethodGet, "/proxy", nil)
		r.Header.Set("X-Apideck-Timeout", value)
		if got := h.timeoutOf(r); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
}

func TestProxyGivesUpWhenTheCallerDoes(t *testing.T) {
	begun, gone := make(chan struct{}), make(chan struct{})
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "begin")
		_ = http.NewResponseController(w).Flush()
		close(begun)
		<-r.Context().Done()
		close(gone)
	})
	srv, _ := d.Serve(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	caddytest.RoundTrip(t, caddytest.NewCall(ctx, t, srv, "GET", d.URL, nil))
	caddytest.Soon(t, begun, "the beginning of the response")
	cancel()
	caddytest.Soon(t, gone, "the end of the request downstream")
}

func TestProxySaysThatDownstreamIsOutOfReach(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	srv, _ := d.Serve(t, "")
	d.Close()
	resp := caddytest.RoundTrip(t, caddytest.NewCall(t.Context(), t, srv, "GET", d.URL, nil))
	caddytest.WantError(t, resp, http.StatusBadGateway, "ConnectorExecutionError")
}

// The timeout runs from the last byte of the request body until the response begins.
func TestProxyTimeoutCountsWhileNothingMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		p := waitingPassage(newAlarms())
		p.wait(cancel)
		for range 10 {
			time.Sleep(20 * time.Second)
			p.deadline.movedAt.Store(time.Now().UnixNano())
		}
		time.Sleep(27 * time.Second)
		synctest.Wait()
		if ctx.Err() != nil {
			t.Fatal("it has timed out while the body moved")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if !errors.Is(context.Cause(ctx), apierror.ErrTimedOut) || p.stopWaiting() {
			t.Errorf("it has not timed out: %v", context.Cause(ctx))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		p := waitingPassage(newAlarms())
		p.wait(cancel)
		p.stopWaiting()
		time.Sleep(time.Hour)
		synctest.Wait()
		if ctx.Err() != nil {
			t.Errorf("it has timed out while the response went on: %v", context.Cause(ctx))
		}
	})
}

func waitingPassage(alarms *sync.Pool) *passage {
	return &passage{
		proxy: &Handler{alarms: alarms}, caller: callersRequest{r: httptest.NewRequest(http.MethodPost, "/proxy", nil)},
		callOptions: callOptions{timeout: 28 * time.Second},
	}
}

// A reused alarm expires for its current passage only.
func TestProxyAlarmServesOnePassageAfterAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alarms := newAlarms()
		var ended []int
		for i := range 5 {
			p := waitingPassage(alarms)
			p.wait(func(error) { ended = append(ended, i) })
			if i%2 == 0 {
				if time.Sleep(27 * time.Second); !p.stopWaiting() {
					t.Errorf("passage %d has timed out too early", i)
				}
				continue
			}
			time.Sleep(28 * time.Second)
			synctest.Wait()
			if p.stopWaiting() {
				t.Errorf("passage %d has not timed out", i)
			}
		}
		if time.Sleep(time.Hour); !slices.Equal(ended, []int{1, 3}) {
			t.Errorf("timed out: %v, want 1 and 3", ended)
		}
	})
}

// A connection stays usable after a request timed out, if the request body was read.
func TestProxyKeepsTheConnectionAfterATimeout(t *testing.T) {
	d := caddytest.NewDownstream(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
		}
	})
	srv, _ := d.Serve(t, "")
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	for range 5 {
		for path, want := range map[string]int{"/": http.StatusOK, "/hang": http.StatusGatewayTimeout} {
			resp, err := transport.RoundTrip(caddytest.NewCall(t.Context(), t, srv, "POST", d.URL+path, strings.NewReader("body"), "X-Apideck-Timeout", "300"))
			if err != nil {
				t.Fatal(err)
			}
			if body := caddytest.ReadAll(t, resp); resp.StatusCode != want && path == "/hang" || resp.Close {
				t.Errorf("%s: got status %d with %v: %s", path, resp.StatusCode, resp.Header, body)
			}
			_ = resp.Body.Close()
		}
	}
}
