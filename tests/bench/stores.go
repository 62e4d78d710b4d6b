package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
	"github.com/tokenbroker/caddy-token-broker/tests/storeproxy"
)

// runStores compares the broker with clients that use its stores directly.
func runStores(ctx context.Context, o *options) (err error) {
	// Vault is on the machine too: if the broker had CPUs of its own, the raw client would leave
	// them idle.
	if err := pinSelf(allCPUs()); err != nil {
		return err
	}
	third, err := startThirdParty()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, third.close()) }()
	fmt.Printf("\nstores: %d operations at a time, turns of %v, all processes on CPUs %v\n", inParallel, o.storeTurn, allCPUs())
	fmt.Print(storeColumns)
	for _, store := range []struct {
		name    string
		measure func(ctx context.Context, dir string, third *thirdParty) error
	}{{"embedded", o.embedded}, {"vault", o.vault}} {
		if !slices.Contains(strings.Split(o.stores, ","), store.name) || o.profile != "" && store.name != "vault" {
			continue
		}
		if err := inDir(o.dir, func(dir string) error { return store.measure(ctx, dir, third) }); err != nil {
			return fmt.Errorf("stores: %s: %w", store.name, err)
		}
	}
	return nil
}

// embedded compares imports into the embedded store with puts into bbolt, on the same disk.
func (o *options) embedded(ctx context.Context, dir string, third *thirdParty) (err error) {
	raw, err := openRawBolt(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, raw.db.Close()) }()
	b, err := startStoreBroker(ctx, o.binary, dir, "storage embedded "+filepath.Join(dir, "store"), third)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.process.Stop()) }()
	other := startOtherWork([]int{b.process.ID()})
	match := bout{turns: o.storeTurns, length: o.storeTurn, broker: b.process.ID()}
	if err := match.run(ctx, &versus{
		name:   "embedded: new imports",
		broker: side{do: b.importTokens, next: new(atomic.Int64)},
		raw:    side{do: raw.put, next: new(atomic.Int64)},
	}); err != nil {
		return fmt.Errorf("%w\n%s", err, b.log.String())
	}
	fmt.Printf("embedded: files in %s; %s", filepath.Dir(dir), other.stop())
	return nil
}

// A vaultRun is the comparison with Vault.
type vaultRun struct {
	options *options
	dir     string
	third   *thirdParty
	vault   *vaulttest.Server
	raw     *rawVault

	// How many connections were imported, through the broker and the hop, and how many secrets
	// were created.
	imported, hopped, created atomic.Int64
}

// vault compares the broker with a raw client of Vault.
func (o *options) vault(ctx context.Context, dir string, third *thirdParty) (err error) {
	vault, err := startVault(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, vault.Close()) }()
	r := &vaultRun{
		options: o, dir: dir, third: third, vault: vault,
		raw: &rawVault{
			address: vault.Addr, token: vault.Token, prefix: rawPrefix, endpoint: "http://" + third.address + "/token", client: newClient(),
		},
	}
	if err := r.withBroker(ctx, vault.Addr, r.compare); err != nil || o.profile != "" {
		return err
	}
	proxy, err := storeproxy.Start(vault.Addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, proxy.Close()) }()
	return r.withBroker(ctx, proxy.URL(), func(ctx context.Context, b *storeBroker) error { return r.count(ctx, b, proxy) })
}

// withBroker calls f with a broker that reaches Vault at an address.
func (r *vaultRun) withBroker(ctx context.Context, address string, f func(ctx context.Context, b *storeBroker) error) (err error) {
	b, err := startStoreBroker(ctx, r.options.binary, r.dir, inVault(address, r.dir), r.third)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.process.Stop()) }()
	if err := f(ctx, b); err != nil {
		return fmt.Errorf("%w\n%s", err, b.log.String())
	}
	return nil
}

// compare compares all operations.
func (r *vaultRun) compare(ctx context.Context, b *storeBroker) error {
	if err := r.copyData(ctx, b); err != nil {
		return err
	}
	process, hop, err := startHop(ctx, r.vault.Addr, r.dir, r.third)
	if err != nil {
		return err
	}
	defer process.stop()
	other := startOtherWork([]int{b.process.ID(), r.vault.ProcessID(), process.id()})
	match := &bout{
		turns: r.options.storeTurns, length: r.options.storeTurn,
		broker: b.process.ID(), hop: process.id(), store: r.vault.ProcessID(),
	}
	for _, v := range r.operations(b, hop) {
		measure := func() error { return match.run(ctx, v) }
		if r.options.profile != "" {
			measure = func() error { return r.profile(ctx, v, b, hop) }
		}
		if err := measure(); err != nil {
			return err
		}
	}
	fmt.Print("Vault: in memory; ", other.stop())
	return nil
}

// copyData makes the raw client and the hop write what the broker writes.
func (r *vaultRun) copyData(ctx context.Context, b *storeBroker) error {
	if err := b.importTokens(ctx, int(r.imported.Add(1)-1)); err != nil {
		return err
	}
	if err := r.raw.copyData(ctx, consumerID(0)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dir, dataFile), r.raw.data, 0o600)
}

// operations returns what is compared, in order: each uses the connections of those before it.
func (r *vaultRun) operations(b, hop *storeBroker) []*versus {
	var refreshed, hopRefreshed, rawRefreshed atomic.Int64
	count := func(counter *atomic.Int64) func() int { return func() int { return int(counter.Load()) } }
	again := func(do func(ctx context.Context, i int) error, of *atomic.Int64) side {
		return side{do: do, next: new(atomic.Int64), of: count(of)}
	}
	through := func(do func(ctx context.Context, i int) error) func(ctx context.Context, i int) error {
		return func(ctx context.Context, i int) error { return do(ctx, hopConnection+i) }
	}
	create := side{next: &r.created, do: func(ctx context.Context, i int) error { return r.raw.create(ctx, consumerID(i)) }}
	read := func(ctx context.Context, i int) error {
		_, err := r.raw.read(ctx, consumerID(i))
		return err
	}
	return []*versus{
		{
			name:   "Vault: new imports",
			broker: side{do: b.importTokens, next: &r.imported}, raw: create, hop: side{do: through(hop.importTokens), next: &r.hopped},
		},
		{
			name:   "Vault: repeated imports",
			broker: again(b.importTokens, &r.imported), raw: create, hop: again(through(hop.importTokens), &r.hopped),
		},
		{
			name:   "Vault: reads",
			broker: again(b.read, &r.imported), raw: again(read, &r.created), hop: again(through(hop.read), &r.hopped),
		},
		{
			name:   "Vault: first refreshes",
			broker: side{do: b.refresh, next: &refreshed, of: count(&r.imported)},
			raw:    side{do: r.refresh, next: &rawRefreshed, of: count(&r.created)},
			hop:    side{do: through(hop.refresh), next: &hopRefreshed, of: count(&r.hopped)},
			wait:   tokenLifetime,
		},
		{
			name:   "Vault: later refreshes",
			broker: again(b.refresh, &refreshed), raw: again(r.refresh, &rawRefreshed), hop: again(through(hop.refresh), &hopRefreshed),
			wait: tokenLifetime,
		},
	}
}

// refresh refreshes a secret of the raw client.
func (r *vaultRun) refresh(ctx context.Context, i int) error {
	old := r.third.current(rawConnection + i)
	access, err := r.raw.refresh(ctx, consumerID(i), old.Refresh())
	if want := old.Next().Access(); err == nil && access != want {
		err = fmt.Errorf("the token endpoint returned %s, want %s", access, want)
	}
	return err
}

// counted is how many connections are used to count requests.
const counted = 200

// count prints how many requests to Vault an operation needs. The proxy that counts them would
// slow down what is compared, so this is a run of its own.
func (r *vaultRun) count(ctx context.Context, b *storeBroker, proxy *storeproxy.Proxy) error {
	first := int(r.imported.Load())
	requests := make([]string, 0, 5)
	for i, operation := range []struct {
		name string
		do   func(ctx context.Context, connection int) error
	}{
		{"new import", b.importTokens},
		{"repeated import", b.importTokens},
		{"read", b.read},
		{"first refresh", b.refresh},
		{"later refresh", b.refresh},
	} {
		if i >= 3 {
			time.Sleep(tokenLifetime) // until the tokens have expired
		}
		before := proxy.Served()
		work, ctx := errgroup.WithContext(ctx)
		work.SetLimit(inParallel)
		for connection := range counted {
			work.Go(func() error { return operation.do(ctx, first+connection) })
		}
		if err := work.Wait(); err != nil {
			return fmt.Errorf("%s: %w", operation.name, err)
		}
		requests = append(requests, fmt.Sprintf("%.2f for a %s", float64(settled(proxy)-before)/counted, operation.name))
	}
	fmt.Printf("requests to Vault (mean of %d): %s\n", counted, strings.Join(requests, ", "))
	return nil
}

// settled returns how many requests the proxy has served once it gets no more: the broker
// destroys earlier versions in the background.
func settled(proxy *storeproxy.Proxy) int64 {
	served := int64(-1)
	for deadline := time.Now().Add(patience); proxy.Served() != served && time.Now().Before(deadline); {
		served = proxy.Served()
		time.Sleep(200 * time.Millisecond)
	}
	return served
}
