package oauthserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

const customer = "a customer"

// redeem redeems a refresh token. A status of 0 stands for no response.
func redeem(t *testing.T, s *oauthserver.Server, refreshToken string) (status int, access, refresh string) {
	t.Helper()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(oauthserver.ClientID, "acme-secret")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", ""
	}
	defer resp.Body.Close()
	var body struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body.AccessToken, body.RefreshToken
}

// call returns the status of a call to the API.
func call(t *testing.T, s *oauthserver.Server, access string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.APIURL+"/contacts", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+access)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

func TestRefreshTokenWorksOnceAndReuseRevokesTheGrant(t *testing.T) {
	t.Parallel()
	s := oauthserver.Start(t, oauthserver.Config{AccessPrefix: "at-", RefreshPrefix: "rt-"})
	login := s.Login(t, customer, 0)
	if got := call(t, s, login.AccessToken); got != http.StatusOK {
		t.Fatalf("a call with the login's token = %d, want 200", got)
	}
	status, access, refresh := redeem(t, s, login.RefreshToken)
	if status != http.StatusOK || !strings.HasPrefix(access, "at-") || !strings.HasPrefix(refresh, "rt-") || refresh == login.RefreshToken {
		t.Fatalf("redeeming the refresh token = %d, %q, %q; want new tokens", status, access, refresh)
	}
	if got := call(t, s, login.AccessToken); got != http.StatusUnauthorized {
		t.Errorf("a call with the replaced token = %d, want 401", got)
	}
	if got := call(t, s, access); got != http.StatusOK {
		t.Errorf("a call with the new token = %d, want 200", got)
	}
	if got := s.Calls(customer); len(got) != 3 || got[2].Token.Number != 1 {
		t.Errorf("calls = %+v, want the third with token 1", got)
	}
	if status, _, _ := redeem(t, s, login.RefreshToken); status != http.StatusBadRequest || s.Reuses() != 1 {
		t.Errorf("reuse = %d, counted %d; want 400, 1", status, s.Reuses())
	}
	if status, _, _ := redeem(t, s, refresh); status != http.StatusBadRequest {
		t.Errorf("redeeming after reuse = %d, want 400: the grant is revoked", status)
	}
	if got := s.Redeemed(customer, 0); got != 2 {
		t.Errorf("the login's refresh token was sent %d times, want 2", got)
	}
}

func TestRefreshTokenStaysWithoutRotation(t *testing.T) {
	t.Parallel()
	s := oauthserver.Start(t, oauthserver.Config{NoRotation: true})
	login := s.Login(t, customer, 2*oauthserver.DefaultLifetime)
	if got := call(t, s, login.AccessToken); got != http.StatusUnauthorized {
		t.Errorf("a call with an expired token = %d, want 401", got)
	}
	for range 2 {
		status, access, refresh := redeem(t, s, login.RefreshToken)
		if status != http.StatusOK || refresh != login.RefreshToken || call(t, s, access) != http.StatusOK {
			t.Errorf("redeeming = %d, same refresh token %t; want 200, true", status, refresh == login.RefreshToken)
		}
	}
	s.Revoke(t, customer)
	if status, _, _ := redeem(t, s, login.RefreshToken); status != http.StatusBadRequest {
		t.Errorf("redeeming after Revoke = %d, want 400", status)
	}
}

func TestResponsesCanBeHeldAndDropped(t *testing.T) {
	t.Parallel()
	s := oauthserver.Start(t, oauthserver.Config{})
	login := s.Login(t, customer, 0)
	gate := s.HoldToken(t)
	answered := make(chan string)
	go func() {
		_, _, refresh := redeem(t, s, login.RefreshToken)
		answered <- refresh
	}()
	gate.Await(t)
	select {
	case <-answered:
		t.Fatal("the response came before the gate was opened")
	case <-time.After(10 * time.Millisecond):
	}
	gate.Open()
	refresh := <-answered

	s.OnToken(oauthserver.Drop)
	if status, _, _ := redeem(t, s, refresh); status != 0 {
		t.Errorf("redeeming = %d, want no response", status)
	}
	// The server notes a request when its handler has ended, after the client has the response.
	if err := brokertest.Retry(10*time.Second, func() error {
		got := s.TokenRequests(customer)
		if len(got) != 2 || got[0].Status != http.StatusOK || !got[0].Delivered || got[1].Status != 0 || got[1].Delivered {
			return fmt.Errorf("requests = %+v, want one delivered and one not", got)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if refresh == "" {
		t.Error("the held response has no refresh token")
	}
}
