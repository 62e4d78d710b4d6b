package client

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

const key = "canary-api-key"

// serve returns a client of a server that answers with handler.
func serve(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c, err := New(server.URL, "my-app", secret.New(key), false)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestARequestSaysWhoSendsIt(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"data": [%q, %q, %q, %q]}`, r.Method+" "+r.URL.String(), r.Header.Get("Authorization"),
			r.Header.Get("X-Apideck-App-Id"), r.Header.Get("X-Token-Broker-Standby"))
	})
	var got struct{ Data []string }
	err := c.With("X-Token-Broker-Standby", "true").Do(t.Context(), http.MethodPost, "/vault/connections?a=b", map[string]int{"limit": 1}, &got)
	want := "POST /vault/connections?a=b, Bearer " + key + ", my-app, true"
	if err != nil || strings.Join(got.Data, ", ") != want {
		t.Errorf("got %q, %v, want %q", got.Data, err, want)
	}
	if err := c.Do(t.Context(), http.MethodGet, "/", nil, &got); err != nil || got.Data[3] != "" {
		t.Errorf("got %q, %v: With changes the client that it is called on", got.Data, err)
	}
}

func TestRequestsThatMaySucceedLaterAreRepeated(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		switch requests.Add(1) {
		case 1:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 3:
			panic(http.ErrAbortHandler) // as if the broker was killed
		default:
			_, _ = w.Write([]byte(`{"ok": true}`))
		}
	})
	begun := time.Now()
	var got struct{ OK bool }
	if err := c.Do(t.Context(), http.MethodPost, "/", nil, &got); err != nil || !got.OK || requests.Load() != 4 {
		t.Errorf("got %v, %v after %d requests, want success after 4", got, err, requests.Load())
	}
	if took := time.Since(begun); took < time.Second {
		t.Errorf("took %v, less than Retry-After", took)
	}
}

func TestARefusalIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		switch r.URL.Path {
		case "/refused":
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"type_name": "ConnectorNotFoundError", "message": "no such connector"}`))
		case "/standby":
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"type_name": "StandbyError", "message": "in standby"}`))
		case "/redirect":
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		default:
			_, _ = w.Write([]byte(`<html>`))
		}
	})
	for path, want := range map[string]string{
		"/refused":  "ConnectorNotFoundError (404): no such connector",
		"/standby":  "StandbyError (503): in standby",
		"/redirect": "the server answered 307 Temporary Redirect; is it a token broker",
	} {
		requests.Store(0)
		err := c.Do(t.Context(), http.MethodGet, path, nil, nil)
		refused, ok := errors.AsType[*Error](err)
		if !ok || refused.Status < 300 || !strings.Contains(err.Error(), want) || requests.Load() != 1 {
			t.Errorf("%s: got %v after %d requests, want %q after one", path, err, requests.Load(), want)
		}
	}
}

func TestAWrongAddressIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(nil)
	server.Close()
	c, err := New(server.URL, "my-app", secret.New(key), false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.Do(ctx, http.MethodGet, "/", nil, nil); err == nil || ctx.Err() != nil || strings.Contains(err.Error(), key) {
		t.Errorf("got %v, %v", err, ctx.Err())
	}
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusServiceUnavailable)
		cancel()
	})
	if err := c.Do(ctx, http.MethodGet, "/", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that of the context", err)
	}
}

func TestTheKeyIsSentOnlyWhereItIsSafe(t *testing.T) {
	t.Parallel()
	for to, safe := range map[string]bool{
		"http://localhost:8080": true, "http://127.0.0.1": true, "http://[::1]:8080": true, "http://broker.localhost": true,
		"https://broker.example.com": true, "https://broker.example.com/base/": true,
		"http://broker.example.com": false, "http://10.0.0.1": false, "http://127.0.0.1.example.com": false, "http://localhost.example.com": false,
	} {
		_, err := New(to, "my-app", secret.New(key), false)
		if (err == nil) != safe {
			t.Errorf("%s: got %v, want it to be safe: %t", to, err, safe)
		}
		if _, err := New(to, "my-app", secret.New(key), true); err != nil {
			t.Errorf("%s with allowHTTP: %v", to, err)
		}
	}
	for _, to := range []string{"", "broker.example.com", "ftp://localhost", "https://user:canary@localhost", "https://localhost?x=1", "https://localhost#x", ":"} {
		if _, err := New(to, "my-app", secret.New(key), true); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: got %v", to, err)
		}
	}
	if _, err := New("https://localhost", "", secret.New(key), false); err == nil {
		t.Error("a missing application is accepted")
	}
	if _, err := New("https://localhost", "my-app", secret.New("canary\r\nX: y"), false); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("a key with a line break: got %v", err)
	}
}

func TestFlagsNameTheBroker(t *testing.T) { //nolint:paralleltest // it sets a variable
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(KeyVariable, "from-environment")
	parse := func(args ...string) (*Client, error) {
		flags := flag.NewFlagSet("", flag.ContinueOnError)
		AddFlags(flags)
		if err := flags.Parse(args); err != nil {
			t.Fatal(err)
		}
		return FromFlags(func(name string) string { return flags.Lookup(name).Value.String() })
	}
	c, err := parse("--app", "my-app")
	if err != nil || c.key.Reveal() != "from-environment" || c.base.String() != "http://localhost:8080" || c.app != "my-app" {
		t.Errorf("got %v, %v", c, err)
	}
	if c, err = parse("--app", "my-app", "--key-file", file, "--to", "http://broker.example.com", "--insecure-http"); err != nil || c.key.Reveal() != "from-file" {
		t.Errorf("got %v, %v", c, err)
	}
	if _, err := parse("--app", "my-app", "--key-file", file+"x"); err == nil {
		t.Error("a missing key file is accepted")
	}
	t.Setenv(KeyVariable, "")
	if _, err := parse("--app", "my-app"); err == nil || !strings.Contains(err.Error(), KeyVariable) {
		t.Errorf("without a key: got %v", err)
	}
}

// Any server may send any text: the result is never negative, and never too long.
func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "5", "-1", "99999999999", "Thu, 01 Jan 2026 00:05:00 GMT"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		resp := &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {s}}, Body: http.NoBody}
		if got, err := refusal(resp); got < 0 || got > maxRetryAfter || err == nil {
			t.Errorf("%q: got %v, %v", s, got, err)
		}
	})
}

func TestAKeyFileThatAllCanReadIsWarnedOf(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("there are no modes")
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("k\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for mode, warned := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o644: true} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		var warnings strings.Builder
		key, err := readKey(path, &warnings)
		if err != nil || key.Reveal() != "k" || strings.Contains(warnings.String(), "chmod 600") != warned {
			t.Errorf("mode %v: got %v, %v and %q", mode, key, err, warnings.String())
		}
	}
}
