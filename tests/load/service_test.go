package main

import (
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/tokenpair"
)

func TestTokenIsHeldFromItsDeliveryUntilItsExpiry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{lifetime: 30 * time.Second, grants: make([]grant, 1)}
		want := func(when string, valid, used bool) {
			t.Helper()
			if gotValid, gotUsed := s.held(0, time.Now()); gotValid != valid || gotUsed != used {
				t.Errorf("%s: held = %t, %t; want %t, %t", when, gotValid, gotUsed, valid, used)
			}
		}
		s.stored(0, time.Now().Add(10*time.Second))
		want("before the first call", false, false)
		if !s.use(0, 0) || s.use(0, 1) {
			t.Error("the stored token must be accepted, the next one not")
		}
		time.Sleep(time.Second)
		want("after the first call", true, true)
		time.Sleep(8 * time.Second)
		want("shortly before the expiry", false, false)
		time.Sleep(time.Second)
		if s.use(0, 0) {
			t.Error("an expired token was accepted")
		}
		if !s.rotate(0, 0, time.Now()) || s.rotate(0, 0, time.Now()) {
			t.Error("a refresh token must work once")
		}
		want("before the new token is delivered", false, false)
		s.grants[0].latest.delivered = time.Now()
		time.Sleep(time.Second)
		want("after the new token is delivered", true, false)
		if !s.use(0, 1) {
			t.Error("the new token was not accepted")
		}
		want("after the new token was used", true, true)
	})
}

func TestServiceRotatesTokens(t *testing.T) {
	t.Parallel()
	s, err := startService(10, time.Minute, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.close() })
	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokenpair.Pair{Connection: 7}.Refresh()}}.Encode()
	for _, want := range []int{http.StatusOK, http.StatusBadRequest} {
		status, body, err := send(t.Context(), http.MethodPost, "http://"+s.address+"/token", header, form)
		if err != nil || status != want {
			t.Errorf("redeeming the refresh token = %d %s, %v; want %d", status, body, err, want)
		}
	}
	status, _, err := get(t.Context(), "http://"+s.address+"/things", http.Header{"Authorization": {"Bearer " + tokenpair.Pair{Connection: 7, Number: 1}.Access()}})
	if err != nil || status != http.StatusOK {
		t.Errorf("a call with the new token = %d, %v; want 200", status, err)
	}
	if s.granted.Load() != 1 || s.refused.Load() != 1 || s.requests.peak() != 2 || s.parallel.peak() != 1 {
		t.Errorf("granted %d, refused %d, peak of requests %d, in parallel %d; want 1, 1, 2, 1",
			s.granted.Load(), s.refused.Load(), s.requests.peak(), s.parallel.peak())
	}
}
