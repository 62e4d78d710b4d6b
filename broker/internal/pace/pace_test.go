package pace

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A recorder records refreshes, each of which takes a while.
type recorder struct {
	*Queue
	takes  time.Duration
	unsent bool // they send no request

	mu      sync.Mutex
	begun   []string    // guarded by mu
	times   []time.Time // guarded by mu; when they began
	running int         // guarded by mu
	peak    int         // guarded by mu
}

// virtually runs a test in virtual time.
func virtually(t *testing.T, takes time.Duration, test func(t *testing.T, r *recorder)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		run := func(work func(context.Context)) bool { go work(ctx); return true }
		test(t, &recorder{Queue: NewQueue(clock.System(), run), takes: takes})
	})
}

// add asks for a refresh.
func (r *recorder) add(name string, req Request, rank Rank, due time.Time) *Ticket {
	var ticket *Ticket
	ready := make(chan struct{})
	begin := func() {
		r.mu.Lock()
		r.begun = append(r.begun, name)
		r.times = append(r.times, time.Now())
		r.running++
		r.peak = max(r.peak, r.running)
		r.mu.Unlock()
		time.AfterFunc(r.takes, func() {
			<-ready
			r.mu.Lock()
			r.running--
			r.mu.Unlock()
			ticket.End(!r.unsent)
		})
	}
	ticket, now := r.Enter(clock.MomentOf(r.clock), req, rank, due, begin)
	close(ready)
	if now {
		begin()
	}
	return ticket
}

// after lets time pass, and returns the names of the refreshes that have begun.
func (r *recorder) after(d time.Duration) []string {
	time.Sleep(d)
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.begun)
}

// busiest returns the most refreshes that began within a second.
func (r *recorder) busiest() int {
	most := 0
	for i, first := range r.times {
		n := i
		for n < len(r.times) && r.times[n].Sub(first) < time.Second {
			n++
		}
		most = max(most, n-i)
	}
	return most
}

// at returns a request to a token endpoint with this budget; 0 means the default.
func at(host string, rate connector.Rate, concurrency int) Request {
	id := connector.ID{UnifiedAPI: "crm", ServiceID: fmt.Sprint(host, rate)}
	def := connector.Definition{
		ID: id, AuthType: connector.OAuth2, AuthStyle: connector.AuthHeader, TokenURL: "https://" + host + ".test/token",
		BaseURL: "https://api.test", RefreshRate: rate, RefreshConcurrency: concurrency,
	}
	return Request{Connector: &record.Connector{Definition: def.WithDefaults()}}
}

func TestHerdIsSpreadOverTime(t *testing.T) {
	virtually(t, 200*time.Millisecond, func(t *testing.T, r *recorder) {
		for i := range 1000 {
			r.add(strconv.Itoa(i), at("auth", 0, 0), Imported, time.Time{})
		}
		if got := len(r.after(10*time.Second - time.Millisecond)); got != 200 {
			t.Errorf("%d refreshes began in 10 s, want 20 a second", got)
		}
		if got := len(r.after(time.Minute)); got != 1000 {
			t.Errorf("%d of 1000 refreshes began", got)
		}
		if got := r.busiest(); got != 20 {
			t.Errorf("%d refreshes began within a second, want 20", got)
		}
		if r.peak > 8 {
			t.Errorf("%d refreshes ran at a time, want at most 8", r.peak)
		}
	})
}

func TestSlowEndpointGetsNoMoreThanItsConcurrency(t *testing.T) {
	virtually(t, 10*time.Second, func(t *testing.T, r *recorder) {
		for range 100 {
			r.add("", at("auth", 0, 0), Imported, time.Time{})
		}
		if got := len(r.after(time.Minute - time.Millisecond)); got != 8*6 {
			t.Errorf("%d refreshes of 10 s began in a minute, 8 at a time", got)
		}
		if r.peak != 8 {
			t.Errorf("%d refreshes ran at a time, want 8", r.peak)
		}
	})
}

func TestRanksThenDueTimesDecideWhatIsNext(t *testing.T) {
	virtually(t, time.Second, func(t *testing.T, r *recorder) {
		one := at("auth", 1, 1)
		now := time.Now()
		r.add("first", one, Unused, now)
		r.add("idle", one, Unused, now.Add(-time.Hour))
		r.add("late", one, InUse, now.Add(time.Hour))
		r.add("retry", one, Again, now)
		r.add("import", one, Imported, now)
		r.add("soon", one, InUse, now.Add(time.Minute))
		if got := strings.Join(r.after(time.Minute), " "); got != "first soon late retry import idle" {
			t.Errorf("the order is %q", got)
		}
	})
}

// A constant stream of calls must not let a refresh token lapse that is not called.
func TestNoRankIsHeldUpForEver(t *testing.T) {
	virtually(t, 10*time.Millisecond, func(t *testing.T, r *recorder) {
		req := at("auth", 10, 8)
		for range 20 {
			r.add("idle", req, Unused, time.Time{})
			r.add("import", req, Imported, time.Time{})
		}
		for range 60 * 12 {
			r.add("call", req, InUse, time.Now())
			time.Sleep(time.Second / 12) // more than the budget
		}
		counts := map[string]int{}
		for _, name := range r.after(0) {
			counts[name]++
		}
		if counts["idle"] < 10 || counts["import"] < 10 || counts["call"] < 400 {
			t.Errorf("began in a minute: %v", counts)
		}
	})
}

func TestWhatACallerWaitsForBeginsAtOnceAndUsesUpTheBudget(t *testing.T) {
	virtually(t, 0, func(t *testing.T, r *recorder) {
		req := at("auth", 0, 0)
		var awaited []*Ticket
		for range 40 {
			awaited = append(awaited, r.Begin(clock.InstantOf(r.clock), req))
		}
		for range 40 {
			r.add("later", req, InUse, time.Now())
		}
		r.add("other", at("other", 0, 0), InUse, time.Now())
		got := r.after(5*time.Second - time.Millisecond)
		if n := len(got) - 1; n != 5 {
			t.Errorf("%d refreshes began in 5 s while callers used up the budget, want one a second", n)
		}
		if !slices.Contains(got, "other") {
			t.Error("the budget of one token endpoint holds up another")
		}
		for _, t := range awaited {
			t.End(true)
		}
		if got := len(r.after(3*time.Second)) - 1; got != 40 {
			t.Errorf("%d of 40 refreshes began when the budget allowed them", got)
		}
	})
}

func TestCallerBeginsARefreshThatWaits(t *testing.T) {
	virtually(t, time.Second, func(t *testing.T, r *recorder) {
		one := at("auth", 1, 1)
		first := r.add("first", one, InUse, time.Now())
		hurried := r.add("hurried", one, InUse, time.Now())
		r.add("last", one, InUse, time.Now().Add(time.Hour))
		now := clock.InstantOf(r.clock)
		first.Hurry(now) // it has begun
		hurried.Hurry(now)
		hurried.Hurry(now)
		hurried.Raise(InUse)
		time.AfterFunc(10*time.Second, func() { hurried.End(true) })
		if got := strings.Join(r.after(time.Minute), " "); got != "first last" {
			t.Errorf("%q began by themselves", got)
		}
		if ep := hurried.endpoint; ep.running != 0 || ep.unawaited != 0 || ep.pending != 0 {
			t.Errorf("%d, %d and %d refreshes are counted, want none", ep.running, ep.unawaited, ep.pending)
		}
	})
}

func TestRefreshThatACallAsksForIsRaised(t *testing.T) {
	virtually(t, time.Second, func(t *testing.T, r *recorder) {
		one := at("auth", 1, 1)
		r.add("first", one, Unused, time.Now())
		r.add("early", one, Unused, time.Now())
		raised := r.add("raised", one, Unused, time.Now().Add(time.Hour))
		raised.Raise(InUse)
		raised.Raise(Unused) // does not lower it
		r.add("import", one, Imported, time.Now())
		got := strings.Join(r.after(time.Minute), " ")
		raised.Raise(InUse) // it has begun
		if got != "first raised import early" {
			t.Errorf("the order is %q", got)
		}
	})
}

// A paused connector, or a record that another replica has refreshed, must not use up the
// budget of the others.
func TestRefreshThatSendsNothingCostsNothing(t *testing.T) {
	virtually(t, time.Millisecond, func(t *testing.T, r *recorder) {
		r.unsent = true
		for range 1000 {
			r.add("", at("auth", 1, 4), Imported, time.Time{})
		}
		if got := len(r.after(time.Second)); got != 1000 {
			t.Errorf("%d of 1000 refreshes that send nothing began in a second", got)
		}
		if r.peak > 4 {
			t.Errorf("%d refreshes ran at a time, want at most 4", r.peak)
		}
	})
}

func TestAnotherBudgetHoldsForThoseThatWait(t *testing.T) {
	virtually(t, 10*time.Millisecond, func(t *testing.T, r *recorder) {
		req := at("auth", 1, 1)
		for range 1000 {
			r.add("", req, Imported, time.Time{})
		}
		if got := len(r.after(10 * time.Second)); got > 11 {
			t.Errorf("%d refreshes began in 10 s, want one a second", got)
		}
		conn := *req.Connector
		conn.RefreshRate, conn.RefreshConcurrency = 500, 16
		r.Reconfigured(&record.Config{Connectors: map[connector.ID]*record.Connector{conn.ID: &conn}})
		if got := len(r.after(500 * time.Millisecond)); got < 240 || got > 280 {
			t.Errorf("%d refreshes began by half a second after the budget became 500 a second", got)
		}
		r.Reconfigured(&record.Config{}) // the connector is gone; its refreshes find that out
		before := len(r.after(0))
		if got := len(r.after(10*time.Second)) - before; got < 160 || got > 200 {
			t.Errorf("%d refreshes began in 10 s, want 20 a second", got)
		}
		if got := len(r.after(time.Minute)); got != 1000 {
			t.Errorf("%d of 1000 refreshes began", got)
		}
		if r.peak > 16 {
			t.Errorf("%d refreshes ran at a time, want at most 16", r.peak)
		}
	})
}

func TestConnectorsOfOneHostShareTheLowerBudget(t *testing.T) {
	virtually(t, time.Millisecond, func(t *testing.T, r *recorder) {
		for i := range 300 {
			r.add("", at("auth", []connector.Rate{0, 50, 5}[i%3], 0), Imported, time.Time{})
		}
		if got := len(r.after(10*time.Second - time.Millisecond)); got > 5*10+1 {
			t.Errorf("%d refreshes began in 10 s, want 5 a second", got)
		}
	})
}

func TestClosedQueueRefusesWhatWaits(t *testing.T) {
	virtually(t, time.Second, func(t *testing.T, r *recorder) {
		one := at("auth", 1, 1)
		r.add("first", one, InUse, time.Now())
		waiting := r.add("second", one, InUse, time.Now())
		r.Close()
		if got := strings.Join(r.after(0), " "); got != "first second" {
			t.Errorf("%q was told to begin, want all, so that none is left waiting", got)
		}
		waiting.Raise(InUse)
		waiting.Hurry(clock.InstantOf(r.clock))
		r.add("third", one, InUse, time.Now())
		if got := strings.Join(r.after(0), " "); got != "first second third" {
			t.Errorf("%q was told to begin", got)
		}
	})
}

func TestIdleEndpointsAreForgotten(t *testing.T) {
	virtually(t, time.Millisecond, func(t *testing.T, r *recorder) {
		for i := range 10000 {
			r.add("", at(fmt.Sprint("tenant", i), 0, 0), Unused, time.Time{})
			time.Sleep(100 * time.Millisecond)
		}
		if got := len(r.endpoints); got > 2*minPrune {
			t.Errorf("%d endpoints are remembered", got)
		}
	})
}

func TestEndpointIsTheHostOfTheTenant(t *testing.T) {
	t.Parallel()
	conn := at("{tenant}.Auth", 0, 0).Connector
	conn.TokenURL += "?api-version=1"
	conn.Settings = []connector.Setting{{Name: "tenant", Required: true}}
	conn.Definition = conn.WithDefaults()
	rec := &record.Record{Settings: map[string]any{"tenant": "jane"}}
	path := at("auth", 0, 0).Connector
	path.TokenURL = "https://auth.test:8443/{tenant}/token"
	for host, got := range map[string]string{
		"jane.auth.test":     hostOf(conn, rec),
		"{tenant}.auth.test": hostOf(conn, &record.Record{}),
		"auth.test:8443":     hostOf(path, nil),
		"":                   Request{Record: rec}.host(),
	} {
		if got != host {
			t.Errorf("got %q, want %q", got, host)
		}
	}
}
