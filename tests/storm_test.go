package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// The size of the storm, and how long it may take on a busy machine.
const (
	stormSize    = 10_000
	stormTimeout = 3 * time.Minute
)

// Three processes on one Vault get ten thousand requests for a connection whose token has
// expired, all before the token endpoint responds. The caller whose request triggered the
// refresh has gone away by then.
func TestStormAcrossReplicasIsOneTokenRequest(t *testing.T) {
	t.Parallel()
	const lifetime = 8 * time.Second // what is left of the token's lifetime at the import
	d := newDeployment(t, oauthserver.Config{})
	replicas := d.replicas(t, vaulttest.Shared(t), 3, stormTimeout.String())
	for _, r := range replicas {
		r.start(t)
	}
	awaitAll(t, replicas)
	gate := d.provider.HoldToken(t)
	login := d.provider.Login(t, consumer, oauthserver.DefaultLifetime-lifetime)
	replicas[0].process().importTokens(t, acme, consumer, login)
	eventually(t, "the expiry of the token", func() error {
		if expiry := login.IssuedAt.Add(login.Lifetime); time.Now().Before(expiry) {
			return fmt.Errorf("it expires at %v", expiry)
		}
		return nil
	})
	if got := d.provider.TokenRequests(consumer); len(got) != 0 {
		t.Fatalf("token requests: %+v, want none before the storm", got)
	}

	first, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := try(first, http.MethodGet, replicas[0].process().sidecarURL("/acme/contacts"), http.Header{"X-Apideck-Consumer-Id": {consumer}}, "")
		gone <- err
	}()
	gate.Await(t)
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the first call ended with %v, want that it was canceled", err)
	}
	s := newStorm(t, stormSize)
	for i := range s.size {
		go s.call(replicas[i%len(replicas)].process().sidecarURL("/acme/contacts"))
	}
	s.awaitSent(t)
	gate.Open()
	s.wantGeneration(t, 1)
	d.wantTokenRequests(t, consumer, 1)
}

// A storm is many concurrent requests.
type storm struct {
	ctx     context.Context
	client  *http.Client
	size    int
	sent    atomic.Int64
	allSent chan struct{}
	answers chan stormAnswer
}

type stormAnswer struct {
	body string
	err  error
}

func newStorm(t *testing.T, size int) *storm {
	ctx, cancel := context.WithTimeout(t.Context(), stormTimeout)
	t.Cleanup(cancel)
	transport := &http.Transport{DisableKeepAlives: true}
	return &storm{
		ctx: ctx, client: &http.Client{Transport: transport}, size: size,
		allSent: make(chan struct{}), answers: make(chan stormAnswer, size),
	}
}

// call sends a request and records the response.
func (s *storm) call(url string) {
	body, err := s.get(url)
	s.answers <- stormAnswer{body, err}
}

func (s *storm) get(url string) (string, error) {
	ctx := httptrace.WithClientTrace(s.ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) {
		if s.sent.Add(1) == int64(s.size) {
			close(s.allSent)
		}
	}})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("X-Apideck-Consumer-Id", consumer)
	resp, err := s.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

// awaitSent waits until all requests are sent.
func (s *storm) awaitSent(t *testing.T) {
	t.Helper()
	select {
	case <-s.allSent:
	case <-s.ctx.Done():
		t.Fatalf("%d of %d requests could be sent within %v", s.sent.Load(), s.size, stormTimeout)
	}
}

// wantGeneration checks that all requests succeeded, and that downstream got the token of a
// number each time.
func (s *storm) wantGeneration(t *testing.T, generation int) {
	t.Helper()
	want := fmt.Sprintf(`"generation":%d,`, generation)
	var failed, stale int
	var err error
	for range s.size {
		got := <-s.answers
		switch {
		case got.err != nil:
			failed++
			err = got.err
		case !strings.Contains(got.body, want):
			stale++
		}
	}
	if failed+stale > 0 {
		t.Errorf("of %d requests %d failed, the last with %v, and %d used an old token; want none", s.size, failed, err, stale)
	}
}

// The configuration is replaced ten times during a refresh, and a request waits in each of
// them.
func TestTenReloadsDuringARefreshLoseNothing(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		const reloads = 10
		gate := d.provider.HoldToken(t)
		ports := ports{freePort(t), freePort(t), freePort(t)}
		config := func(number int) string {
			d.site = fmt.Sprintf("header X-Configuration %d", number)
			return patch(t, d.caddyfile(t, ports), "timeout 30s", "timeout 60s")
		}
		p := d.runCaddyfile(t, ports, config(0))
		p.awaitReady(t)
		p.importTokens(t, acme, consumer, d.expired(t, consumer))
		gate.Await(t)
		s := newStorm(t, reloads+1)
		for number := range reloads {
			go s.call(p.sidecarURL("/acme/contacts"))
			// Wait: closing a listener resets connections that were not accepted yet.
			eventually(t, "the request's arrival", func() error { return p.wantInFlight(number + 1) })
			p.load(t, config(number+1))
			eventually(t, "the new configuration", func() error {
				got, err := get(p.apiURL("/"), http.Header{})
				if got := got.header.Get("X-Configuration"); err == nil && got != strconv.Itoa(number+1) {
					err = fmt.Errorf("the configuration is %q, want %d", got, number+1)
				}
				return err
			})
		}
		go s.call(p.sidecarURL("/acme/contacts"))
		s.awaitSent(t)
		gate.Open()
		s.wantGeneration(t, 1)
		d.wantUnbroken(t, p, consumer, 1)
		d.wantTokenRequests(t, consumer, 1)
	})
}

// wantInFlight returns an error unless count requests to downstream are in progress.
func (p *process) wantInFlight(count int) error {
	got, err := get(p.adminURL("/reverse_proxy/upstreams"), http.Header{})
	if err != nil {
		return err
	}
	var upstreams []struct {
		Address string
		Count   int `json:"num_requests"`
	}
	if err := json.Unmarshal(got.body, &upstreams); err != nil {
		return fmt.Errorf("%w: %v", err, got)
	}
	for _, u := range upstreams {
		if u.Count == count {
			return nil
		}
	}
	return fmt.Errorf("want %d requests in progress, got %+v", count, upstreams)
}

// Twenty times a process is stopped after the token endpoint has spent the refresh token and
// before it has responded. The next process finds the token that the last one saved.
func TestTwentyShutdownsDuringARefreshBurnNothing(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		const rounds = 20
		d.global = "log {\nlevel DEBUG\n}"
		customer := func(round int) string { return fmt.Sprintf("customer-%d", round) }
		for round := range rounds {
			gate := d.provider.HoldToken(t)
			p := d.start(t)
			if round > 0 {
				d.wantUnbroken(t, p, customer(round-1), 1)
			}
			p.importTokens(t, acme, customer(round), d.expired(t, customer(round)))
			gate.Await(t)
			p.terminate(t)
			eventually(t, "the beginning of the shutdown", func() error {
				if _, err := get(p.apiURL("/"), http.Header{}); err == nil {
					return errors.New("it still accepts requests")
				}
				return nil
			})
			if p.hasExited() {
				t.Fatal("the process ended before the token endpoint responded")
			}
			gate.Open()
			p.awaitExit(t)
			if log := p.log.String(); strings.Contains(log, `"class":"ambiguous"`) || strings.Contains(log, "was taken over") {
				t.Fatalf("round %d: the log records an ambiguous outcome", round)
			}
		}
		p := d.start(t)
		for round := range rounds {
			d.wantUnbroken(t, p, customer(round), 1)
			d.wantTokenRequests(t, customer(round), 1)
		}
	})
}
