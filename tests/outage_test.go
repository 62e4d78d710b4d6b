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

// How long a Vault outage lasts that would give the other replicas the time to take a
// lease over, if only they could read it: a lease of a timeout of 4 s lasts 13 s.
const (
	outageTimeout = "4s"
	outage        = 14 * time.Second
)

// The store goes away for everybody when the refresh token is spent and before the new
// one is saved. When it is back, the one copy of that wins over everybody.
func TestVaultOutageRightAfterARedeemLosesNothing(t *testing.T) {
	t.Parallel()
	o := newOutage(t)
	first := o.replicas[0].process()
	if got, err := first.tryCall("/acme/contacts", consumer); err != nil || got.status != http.StatusOK {
		t.Errorf("a call to the process with the new token = %v, %v; want 200 without Vault", got, err)
	}
	o.goOn(t, outage)
	o.end(t)
	o.wantNothingLost(t)
}

// The same, and the process that has the new token crashes meanwhile: what counts is
// in its journal.
func TestJournalSurvivesACrashInAVaultOutage(t *testing.T) {
	t.Parallel()
	o := newOutage(t)
	first := o.replicas[0]
	eventually(t, "the journal", func() error {
		if !hasLogged(first, "the store did not take a refreshed token; it is served from memory, and saving is retried") {
			return errors.New("nothing is said of it")
		}
		if got, err := first.process().tryCall("/acme/contacts", consumer); err != nil || got.status != http.StatusOK {
			return errors.New("the token is not served from memory") // which it is once it is in the journal
		}
		return nil
	})
	first.kill(t)
	first.start(t)
	eventually(t, "the store's opening", func() error { // which reads the journal
		got, err := get(first.process().adminURL("/token_broker/health/ready"), http.Header{})
		if err == nil && got.status == http.StatusOK {
			t.Error("the process is ready without Vault")
		}
		return err
	})
	o.goOn(t, outage)
	o.end(t)
	o.wantNothingLost(t)
}

// An outageScene is three replicas without a Vault, and a connection whose refresh
// token the first of them has spent just before that.
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

// callSteadily has all replicas called, so that all want a token all the time.
func (o *outageScene) callSteadily(t *testing.T) {
	for _, r := range o.replicas {
		o.calling.Go(func() {
			for {
				_, _ = r.process().tryCall("/acme/contacts", consumer) // often there is none to be had
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

// goOn lets the outage last. Nothing is waited for: time is what it is about.
func (o *outageScene) goOn(t *testing.T, d time.Duration) {
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

// wantNothingLost waits for longer than it would take the others to take over.
func (o *outageScene) wantNothingLost(t *testing.T) {
	t.Helper()
	for _, r := range o.replicas {
		r.wantGeneration(t, consumer, 1)
	}
	o.goOn(t, outage)
	o.stopCalling()
	for _, r := range o.replicas {
		r.wantGeneration(t, consumer, 1)
	}
	o.wantRedeems(t, consumer, 1)
}

func hasLogged(r *replica, message string) bool {
	for _, line := range r.logged() {
		if line.Message == message {
			return true
		}
	}
	return false
}
