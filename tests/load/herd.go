package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/tokenpair"
)

// enough is the share of a herd that ends the measurement. Calls are for random connections, and
// some are never called.
const enough = 0.99

// expireHerd calls the connections whose tokens expire in the same minute, until nearly all were
// refreshed.
func (r *scaleRun) expireHerd(ctx context.Context, begin time.Time) error {
	if late := time.Since(begin); late > 0 {
		fmt.Printf("the herd is called %.0f s late\n", late.Seconds())
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Until(begin)):
	}
	perSecond := float64(r.herd) / r.callEvery.Seconds()
	caller := newCaller(siteURL(r.broker.ports.Sidecar), r.service, r.connections-r.herd-r.list, r.herd, time.Minute)
	var calls tally
	caller.record(&calls)
	calling, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { caller.run(calling, perSecond) })
	refreshed := r.awaitRefreshes(ctx, fmt.Sprintf("herd of %d whose tokens expire in the same minute, %.0f calls/s", r.herd, perSecond), enough)
	// Tokens that were not refreshed in time would have expired by then.
	if expired := begin.Add(r.expireIn + time.Minute); refreshed && time.Now().Before(expired) {
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(expired)):
		}
	}
	stop()
	work.Wait()
	n, latency := calls.count(), calls.latency(0.5, 0.99)
	fmt.Printf("  %d calls, %d failed, %d of them with a valid token; p50 %s ms, p99 %s ms\n",
		n.all, n.failed(), n.broken, milliseconds(latency[0]), milliseconds(latency[1]))
	if failures := calls.failures(); failures != "" {
		fmt.Printf("  failed calls: %s\n", failures)
	}
	return ctx.Err()
}

// awaitRefreshes waits until a share of a herd was refreshed, and prints what the token endpoint
// and the broker saw. It reports whether that happened in time.
func (r *scaleRun) awaitRefreshes(ctx context.Context, what string, share float64) bool {
	w := &watch{broker: r.broker}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go w.run(watching)
	r.service.requests.reset()
	r.service.parallel.peak()
	before, served := r.service.granted.Load(), r.served()
	done := func() int { return int(r.service.granted.Load() - before) }
	begun := time.Now()
	deadline := begun.Add(r.patience)
	for float64(done()) < share*float64(r.herd) && time.Now().Before(deadline) && ctx.Err() == nil {
		time.Sleep(100 * time.Millisecond)
	}
	took := time.Since(begun)
	most, seconds := r.service.requests.until(0.9)
	fmt.Printf("%s:\n  %d refreshed in %.1f s, %.0f/s for the first 90 %%\n", what, done(), took.Seconds(), float64(most)/float64(max(seconds, 1)))
	fmt.Printf("  token endpoint: at most %d requests at a time, and %d in a second\n", r.service.parallel.peak(), r.service.requests.peak())
	if r.proxy != nil {
		fmt.Printf("  Vault: %.1f requests for a refresh\n", float64(r.served()-served)/float64(max(done(), 1)))
	}
	u := w.peak()
	fmt.Printf("  broker: at most %d goroutines, %d descriptors, %d MB\n", u.goroutines, u.descriptors, u.memory>>20)
	return time.Now().Before(deadline)
}

func (r *scaleRun) served() int64 {
	if r.proxy == nil {
		return 0
	}
	return r.proxy.Served()
}

// importHerd imports connections whose tokens have expired. Each queues a refresh.
func (r *scaleRun) importHerd(ctx context.Context) error {
	done := make(chan bool, 1)
	go func() {
		done <- r.awaitRefreshes(ctx, fmt.Sprintf("herd of %d expired imports", r.herd), 1)
	}()
	begun := time.Now()
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: r.importers}}
	err := inParallel(ctx, r.importers, r.herd, func(ctx context.Context, i int) error {
		return r.importExpired(ctx, client, r.connections+i)
	})
	took := time.Since(begun)
	if err != nil {
		return err
	}
	<-done
	fmt.Printf("  imports: %.0f/s, %d at a time\n", float64(r.herd)/took.Seconds(), r.importers)
	return ctx.Err()
}

func (r *scaleRun) importExpired(ctx context.Context, client *http.Client, connection int) error {
	expiry := time.Now().Add(-time.Hour)
	r.service.stored(connection, expiry)
	body := fmt.Sprintf(`{"credentials":{"access_token":%q,"refresh_token":%q,"issued_at":%q,"expires_in":3600},"settings":{"region":"eu"}}`,
		tokenpair.Pair{Connection: connection}.Access(), tokenpair.Pair{Connection: connection}.Refresh(), expiry.Add(-time.Hour).UTC().Format(time.RFC3339))
	address := siteURL(r.broker.ports.API) + "/vault/connections/" + serviceName + "/import"
	status, answer, err := sendWith(ctx, client, http.MethodPost, address, r.header(consumerID(connection)), body)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("an import: %d %s", status, answer)
	}
	return err
}

// awaitSweep waits for the end of the broker's first sweep, which begins some minutes after its
// start. The log tells.
func (r *scaleRun) awaitSweep(ctx context.Context) error {
	if r.sweep == 0 {
		return nil
	}
	served := r.served()
	for deadline := time.Now().Add(r.sweep); time.Now().Before(deadline); {
		finished, err := r.broker.logged("sweep finished")
		if err != nil {
			return err
		}
		if len(finished) > 0 {
			var line struct {
				Records  int     `json:"records"`
				Duration float64 `json:"duration"` // seconds
			}
			if err := json.Unmarshal(finished[0], &line); err != nil {
				return err
			}
			fmt.Printf("sweep: %d records in %.0f s\n", line.Records, line.Duration)
			if r.proxy != nil {
				fmt.Printf("  Vault: %d requests\n", r.served()-served)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	fmt.Println("sweep: did not end in time")
	return nil
}
