package storeproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

const waitTimeout = 30 * time.Second

// proxyTo starts a proxy in front of a handler.
func proxyTo(t *testing.T, handler http.HandlerFunc) *Proxy {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	p, err := Start(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func get(ctx context.Context, url string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

func TestProxyPassesRequestsAndResponsesOn(t *testing.T) {
	t.Parallel()
	p := proxyTo(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Answer", r.Header.Get("X-Vault-Token"))
		w.WriteHeader(http.StatusTeapot)
		_, _ = fmt.Fprintf(w, "%s %s %s", r.Method, r.URL, body)
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, p.URL()+"/v1/secret/data/a?list=true", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", "token")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if want := "PUT /v1/secret/data/a?list=true body"; err != nil || string(body) != want {
		t.Errorf("the body = %q, %v; want %q", body, err, want)
	}
	if resp.StatusCode != http.StatusTeapot || resp.Header.Get("X-Answer") != "token" {
		t.Errorf("the response = %s with %v, want 418 and the header", resp.Status, resp.Header)
	}
}

// A client that gives up does not take its request out of the queue.
func TestProxyServesRequestsOfClientsThatHaveGoneAway(t *testing.T) {
	t.Parallel()
	served := make(chan string, 10)
	p := proxyTo(t, func(_ http.ResponseWriter, r *http.Request) { served <- r.URL.Path })
	p.SetRate(1e-6)
	if status, err := get(t.Context(), p.URL()+"/first"); err != nil || status != http.StatusOK {
		t.Fatalf("the first request = %d, %v; want 200", status, err)
	}
	impatient, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := get(impatient, p.URL()+"/second"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the second request = %v, want that it times out", err)
	}
	p.SetRate(0)
	for _, want := range []string{"/first", "/second"} {
		select {
		case got := <-served:
			if got != want {
				t.Errorf("served %s, want %s", got, want)
			}
		case <-time.After(waitTimeout):
			t.Fatalf("%s was not served", want)
		}
	}
	if got := p.Served(); got != 2 {
		t.Errorf("served %d requests, want 2", got)
	}
}
