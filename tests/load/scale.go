package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/tests/stats"
	"github.com/tokenbroker/caddy-token-broker/tests/storeproxy"
)

// A scale is a run with large stores.
type scale struct {
	stores      string
	connections int
	herd        int
	list        int // connections of the consumer that is listed
	expireIn    time.Duration
	patience    time.Duration
	tokenDelay  time.Duration
	callEvery   time.Duration
	importers   int
	vault       string
	sweep       time.Duration
}

func scaleCommand(ctx context.Context, arguments []string) error {
	var o options
	var s scale
	flags := flag.NewFlagSet("scale", flag.ExitOnError)
	o.register(flags)
	flags.StringVar(&s.stores, "stores", "embedded,vault", "the stores to measure")
	flags.IntVar(&s.connections, "connections", 200_000, "connections in each store")
	flags.IntVar(&s.herd, "herd", 20_000, "how many tokens expire in the same minute, and how many expired ones are imported")
	flags.IntVar(&s.list, "list", 1000, "connections of the consumer that is listed, with as many connectors")
	flags.DurationVar(&s.expireIn, "expire-in", 2*time.Minute, "how long after the first call the first token of the herd expires")
	flags.DurationVar(&s.callEvery, "call-every", 40*time.Second, "how long it is between two calls of a connection of the herd")
	flags.DurationVar(&s.tokenDelay, "token-delay", 100*time.Millisecond, "how long the token endpoint takes")
	flags.DurationVar(&s.patience, "patience", 20*time.Minute, "how long to wait for the refreshes of a herd")
	flags.IntVar(&s.importers, "importers", 32, "how many imports are sent at a time")
	flags.StringVar(&s.vault, "vault", "inmem", "where Vault keeps its data: raft or inmem")
	flags.DurationVar(&s.sweep, "sweep", 0, "how long to wait for the first sweep of each store to end; 0: do not")
	if err := o.parse(flags, arguments); err != nil {
		return err
	}
	if s.connections < s.herd+s.list {
		return errors.New("-connections must be at least -herd and -list together")
	}
	for name := range strings.SplitSeq(s.stores, ",") {
		run := map[string]func(ctx context.Context, o *options, dir string) error{"embedded": s.onDisk, "vault": s.inVault}[name]
		if run == nil {
			return fmt.Errorf("-stores: there is no store %q", name)
		}
		if err := o.inDir(func(dir string) error { return run(ctx, &o, dir) }); err != nil {
			return err
		}
	}
	return nil
}

func (s *scale) onDisk(ctx context.Context, o *options, dir string) error {
	return s.run(ctx, o, dir, embedded(dir), nil)
}

func (s *scale) inVault(ctx context.Context, o *options, dir string) (err error) {
	vault, err := startVault(dir, s.vault)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, vault.Close()) }()
	proxy, err := storeproxy.Start(vault.Addr) // to count requests
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, proxy.Close()) }()
	storage, err := inVault(dir, vault.Addr, proxy.URL(), vault.Token)
	if err != nil {
		return err
	}
	return s.run(ctx, o, dir, storage, proxy)
}

// A scaleRun is a scale in progress, with one store.
type scaleRun struct {
	*scale
	storage storage
	service *service
	broker  *broker
	proxy   *storeproxy.Proxy // nil without Vault
}

// run fills a store and measures. Connections are numbered: first those that are only stored,
// then the herd, then those that are imported. One consumer has s.list connections beside these.
func (s *scale) run(ctx context.Context, o *options, dir string, storage storage, proxy *storeproxy.Proxy) (err error) {
	service, err := startService(s.connections+s.herd, time.Hour, s.tokenDelay)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.close()) }()
	r := &scaleRun{scale: s, storage: storage, service: service, proxy: proxy}
	begin, err := r.fillStore(ctx)
	if err != nil {
		return err
	}
	d := deployment{binary: o.binary, dir: dir, storage: storage.config, service: service.address, others: s.list}
	if r.broker, err = d.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.broker.stop()) }()
	fmt.Printf("start to first response: %d ms; memory %d MB\n", r.broker.startedIn.Milliseconds(), r.broker.usage(ctx).memory>>20)
	if err := r.measureList(ctx); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{
		func(ctx context.Context) error { return r.expireHerd(ctx, begin) },
		r.importHerd,
		r.awaitSweep,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// fillStore fills the store and returns when to call the herd first.
func (r *scaleRun) fillStore(ctx context.Context) (begin time.Time, err error) {
	idle := r.connections - r.herd - r.list
	const day = 24 * time.Hour
	begun := time.Now()
	if err := r.storage.fill(ctx, idle, func(i int) *record.Record {
		now := time.Now()
		r.service.stored(i, now.Add(day))
		return newRecord(i, now, now.Add(day))
	}); err != nil {
		return begin, err
	}
	names := otherServices(r.list)
	if err := r.storage.fill(ctx, r.list, func(i int) *record.Record {
		rec := emptyRecord(manyConsumer, names[i])
		rec.Settings = map[string]any{"api_key": fmt.Sprintf("an-api-key-%053d", i)}
		return rec
	}); err != nil {
		return begin, err
	}
	took := time.Since(begun)
	each := took / time.Duration(max(idle+r.list, 1))
	count, err := r.storage.names(ctx)
	listed := time.Since(begun) - took
	if err != nil {
		return begin, err
	}
	// The records of the herd say when their tokens expire, which is after the time that it takes
	// to store them and to measure the start.
	begin = time.Now().Add(time.Duration(r.herd)*each*3/2 + 20*time.Second)
	if err := r.storage.fill(ctx, r.herd, func(i int) *record.Record {
		expiry := begin.Add(r.expireIn + time.Duration(i)*time.Minute/time.Duration(r.herd))
		r.service.stored(idle+i, expiry)
		return newRecord(idle+i, expiry.Add(-r.service.lifetime), expiry)
	}); err != nil {
		return begin, err
	}
	fmt.Printf("\n%s: %d connections; %.0f records/s stored; names of %d listed in %.1f s\n",
		r.storage.name, r.connections, 1/each.Seconds(), count, listed.Seconds())
	return begin, nil
}

// manyConsumer is the consumer that is listed.
const manyConsumer = "customer-of-many"

// measureList lists the connections of a consumer several times.
func (r *scaleRun) measureList(ctx context.Context) error {
	for _, query := range []string{"", "?configured=true"} {
		const times = 5
		var took []float64
		var size int
		for range times {
			begun := time.Now()
			status, body, err := get(ctx, siteURL(r.broker.ports.API)+"/vault/connections"+query, r.header(manyConsumer))
			if err == nil && status != http.StatusOK {
				err = fmt.Errorf("listing connections: %d %s", status, body)
			}
			if err != nil {
				return err
			}
			took, size = append(took, float64(time.Since(begun).Microseconds())/1e3), len(body)
		}
		fmt.Printf("list of a consumer with %d connections%s: %.0f ms, at most %.0f (median of %d), %d kB\n",
			r.list, query, stats.Median(took), slices.Max(took), times, size/1000)
	}
	return nil
}

// header returns the headers of a request to the connections API.
func (r *scaleRun) header(consumer string) http.Header {
	return http.Header{
		"Authorization": {"Bearer " + apiKey}, "X-Apideck-App-Id": {application}, consumerHeader: {consumer},
		"Content-Type": {"application/json"},
	}
}
