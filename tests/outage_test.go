package tests

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// The outage outlasts a lease, which lasts 13 s with this timeout, so the other replicas would
// take over a lease that they could read.
const (
	outageTimeout = "4s"
	outage        = 14 * time.Second
)

// Vault becomes unreachable for all replicas after a refresh token is spent and before the new
// one is saved. When it is back, all replicas use the new one.
func TestVaultOutageDuringARefreshLosesNothing(t *testing.T) {
	t.Parallel()
	o := newOutage(t)
	first := o.replicas[0].process()
	if got, err := first.tryCall("/acme/contacts", consumer); err != nil || got.status != http.StatusOK {
		t.Errorf("a call to the process with the new token = %v, %v; want 200 without Vault", got, err)
	}
	o.wait(t, outage)
	o.end(t)
	o.wantNothingLost(t)
}

// The same, and the process with the new token crashes during the outage. Its journal has the
// token.
func TestJournalSurvivesACrashInAVaultOutage(t *testing.T) {
	t.Parallel()
	o := newOutage(t)
	first := o.replicas[0]
	eventually(t, "the journal", func() error {
		if !hasLogged(first, "the store did not take a refreshed token; it is served from memory, and saving is retried") {
			return errors.New("the log does not mention it")
		}
		if got, err := first.process().tryCall("/acme/contacts", consumer); err != nil || got.status != http.StatusOK {
			return errors.New("the token is not served from memory") // it is once the journal has it
		}
		return nil
	})
	first.kill(t)
	first.start(t)
	eventually(t, "a response about readiness", func() error { // by then the journal was read
		got, err := get(first.process().adminURL("/token_broker/health/ready"), http.Header{})
		if err == nil && got.status == http.StatusOK {
			t.Error("the process is ready without Vault")
		}
		return err
	})
	o.wait(t, outage)
	o.end(t)
	o.wantNothingLost(t)
}

// An outageScene is three replicas without a Vault, and a connection whose refresh token the
// first of them spent just before the outage.
type outageScene struct {
	*deployment
	replicas []*replica
	stop     chan struct{}
	calling  sync.WaitGroup
}

func newOutage(t *testing.T) *outageScene {
	server := vaulttest.Shared(t)
	d := newDeployment(t, oauthserver.Config{})
	o := &outageScene{deployment: d, replicas: d.replicas(t, server, 3, outageTimeout), stop: make(chan struct{})}
	for _, r := range o.replicas {
		r.start(t)
	}
	awaitAll(t, o.replicas)
	answered := make(chan struct{})
	var once sync.Once
	d.provider.OnToken(func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		answer := httptest.NewRecorder()
		server.ServeHTTP(answer, r)
		for _, replica := range o.replicas {
			replica.network.refuse()
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
		once.Do(func() { close(answered) })
	})
	o.replicas[0].process().importTokens(t, acme, consumer, d.expired(t, consumer))
	select {
	case <-answered:
	case <-time.After(waitTimeout):
		t.Fatal("no token request arrived")
	}
	d.provider.OnToken(nil)
	o.callSteadily(t)
	return o
}

// callSteadily calls all replicas all the time, so that each of them wants a token.
func (o *outageScene) callSteadily(t *testing.T) {
	for _, r := range o.replicas {
		o.calling.Go(func() {
			for {
				_, _ = r.process().tryCall("/acme/contacts", consumer) // it often fails for want of a token
				select {
				case <-o.stop:
					return
				case <-time.After(pollInterval):
				}
			}
		})
	}
	t.Cleanup(o.stopCalling)
}

func (o *outageScene) stopCalling() {
	select {
	case <-o.stop:
	default:
		close(o.stop)
	}
	o.calling.Wait()
}

// wait lets time pass. There is no condition to wait for: leases expire with time.
func (o *outageScene) wait(t *testing.T, d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

func (o *outageScene) end(t *testing.T) {
	for _, r := range o.replicas {
		r.network.pass()
	}
	awaitAll(t, o.replicas)
}

// wantNothingLost checks that all replicas use the new token, at once and after a lease would
// have expired.
func (o *outageScene) wantNothingLost(t *testing.T) {
	t.Helper()
	for _, r := range o.replicas {
		r.wantGeneration(t, consumer, 1)
	}
	o.wait(t, outage)
	o.stopCalling()
	for _, r := range o.replicas {
		r.wantGeneration(t, consumer, 1)
	}
	o.wantTokenRequests(t, consumer, 1)
}

func hasLogged(r *replica, message string) bool {
	for _, line := range r.logged() {
		if line.Message == message {
			return true
		}
	}
	return false
}
