package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/transfer/transfertest"
	"github.com/tokenbroker/caddy-token-broker/tests/stats"
)

const (
	// importsInParallel is how many operations of the raw client are in progress at a time: as
	// many as rows with the command's default, 4 batches of which the broker handles 32 rows.
	importsInParallel = 4 * 32

	// importedFirst is how many connections are imported before the first turn.
	importedFirst = 2_000
)

// importWays are the contestants that import with the command, by the flags that they add.
var importWays = []struct {
	name  string
	flags []string
}{
	{"import", nil},
	{"import --parallel 8", []string{"--parallel", "8"}},
}

// An importLab compares the command import with a client that uses the store directly.
type importLab struct {
	binary    string
	dir       string
	broker    *storeBroker
	store     int // process id; 0: the store has no process of its own
	generator *transfertest.Generator
	raw       side
	imported  func(ctx context.Context) error // called after the first import; nil: there is nothing to do
	rate      float64                         // rows a second of the last import
}

// runImports compares imports of files with clients that use the stores directly.
func runImports(ctx context.Context, o *options) (err error) {
	if err := pinSelf(allCPUs()); err != nil {
		return err
	}
	third, err := startThirdParty()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, third.close()) }()
	fmt.Printf("\nimport: files of new connections that take about %v, all processes on CPUs %v\n", o.importTurn(), allCPUs())
	for _, store := range []struct {
		name    string
		measure func(ctx context.Context, dir string, third *thirdParty) error
	}{{"embedded", o.importEmbedded}, {"vault", o.importVault}} {
		if !slices.Contains(strings.Split(o.stores, ","), store.name) {
			continue
		}
		if err := inDir(o.dir, func(dir string) error { return store.measure(ctx, dir, third) }); err != nil {
			return fmt.Errorf("import: %s: %w", store.name, err)
		}
	}
	return nil
}

// importTurn is how long an import takes, of which the start of the command is a small part.
func (o *options) importTurn() time.Duration { return 2 * o.storeTurn }

// importEmbedded compares with puts into bbolt, on the same disk.
func (o *options) importEmbedded(ctx context.Context, dir string, third *thirdParty) (err error) {
	raw, err := openRawBolt(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, raw.db.Close()) }()
	raw.db.MaxBatchSize = importsInParallel
	l := newImportLab(o.binary, dir)
	l.raw.do = raw.put
	return l.run(ctx, "embedded", "storage embedded "+filepath.Join(dir, "store"), third, o)
}

// importVault compares with creates of the same secrets.
func (o *options) importVault(ctx context.Context, dir string, third *thirdParty) (err error) {
	vault, err := startVault(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, vault.Close()) }()
	raw := &rawVault{address: vault.Addr, token: vault.Token, prefix: rawPrefix, client: newClient()}
	l := newImportLab(o.binary, dir)
	l.store = vault.ProcessID()
	l.raw.do = func(ctx context.Context, i int) error { return raw.create(ctx, consumerID(i)) }
	l.imported = func(ctx context.Context) error { return raw.copyData(ctx, "canonical-1") }
	return l.run(ctx, "Vault", inVault(vault.Addr, dir), third, o)
}

func newImportLab(binary, dir string) *importLab {
	id, err := connector.ParseID(serviceName)
	if err != nil {
		panic(err)
	}
	g := transfertest.New("canonical", 1)
	g.BadShare, g.Connector = 0, id
	return &importLab{
		binary: binary, dir: dir, generator: g,
		raw: side{next: new(atomic.Int64), inParallel: importsInParallel},
	}
}

// run starts a broker with a store and compares.
func (l *importLab) run(ctx context.Context, name, storage string, third *thirdParty, o *options) (err error) {
	if l.broker, err = startStoreBroker(ctx, l.binary, l.dir, storage, third); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.broker.process.Stop()) }()
	first, err := l.importFile(ctx, importedFirst)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, l.broker.log.String())
	}
	l.rate = first.throughput()
	if l.imported != nil {
		if err := l.imported(ctx); err != nil {
			return err
		}
	}
	if o.profile != "" {
		return l.profile(ctx, strings.ToLower(name), o)
	}
	processes := []int{l.broker.process.ID()}
	if l.store != 0 {
		processes = append(processes, l.store)
	}
	other := startOtherWork(processes)
	turns := make([][]*turn, len(importWays)+1)
	err = inTurns(o.storeTurns, len(turns), func(i int) error {
		t, err := l.take(ctx, i, o.importTurn())
		turns[i] = append(turns[i], t)
		return err
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, l.broker.log.String())
	}
	fmt.Print(importColumns)
	for i, way := range importWays {
		fmt.Print(l.result(name+": "+way.name, turns[i], turns[len(importWays)]))
	}
	fmt.Printf("%s: %s", name, other.stop())
	return nil
}

// profile writes profiles of the broker's CPU and allocations while a file is imported.
func (l *importLab) profile(ctx context.Context, name string, o *options) error {
	var work errgroup.Group
	work.Go(func() error {
		_, err := l.importFile(ctx, int(l.rate*(profileTime+time.Second).Seconds()))
		return err
	})
	for _, kind := range []string{"profile", "allocs"} {
		work.Go(func() error {
			return o.fetchProfile(ctx, fmt.Sprintf("http://127.0.0.1:%d/debug", l.broker.ports.Admin), "", kind, name+"-import-"+kind)
		})
	}
	return work.Wait()
}

// take gives a contestant a turn: a way to import, or after these the raw client.
func (l *importLab) take(ctx context.Context, i int, length time.Duration) (*turn, error) {
	if i < len(importWays) {
		t, err := l.importFile(ctx, max(1, int(l.rate*length.Seconds())), importWays[i].flags...)
		if err == nil {
			l.rate = t.throughput()
		}
		return t, err
	}
	t, err := measured(os.Getpid(), l.store, func() (int, error) { return l.raw.work(ctx, time.Now().Add(length)) })
	if err != nil {
		return nil, fmt.Errorf("raw: %w", err)
	}
	return t, nil
}

// importFile imports a file of so many new connections.
func (l *importLab) importFile(ctx context.Context, rows int, flags ...string) (*turn, error) {
	path := filepath.Join(l.dir, "connections.ndjson")
	if err := l.writeFile(path, rows); err != nil {
		return nil, err
	}
	arguments := append([]string{"import", "--to", fmt.Sprintf("http://127.0.0.1:%d", l.broker.ports.API), "--app", application}, flags...)
	cmd := exec.CommandContext(ctx, l.binary, append(arguments, path)...)
	cmd.Env = append(os.Environ(), "TOKEN_BROKER_API_KEY="+apiKey)
	t, err := measured(l.broker.process.ID(), l.store, func() (int, error) {
		report, err := cmd.CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("%w\n%s", err, report)
		}
		if !isReportOf(string(report), rows) {
			return 0, fmt.Errorf("the command did not create %d connections:\n%s", rows, report)
		}
		return rows, nil
	})
	if err != nil {
		return nil, err
	}
	t.commandCPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return t, nil
}

func (l *importLab) writeFile(path string, rows int) (err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	_, err = io.Copy(file, l.generator.Reader(rows))
	return err
}

// importColumns are the titles of what result returns.
const importColumns = `                                                                      CPU µs/row
                                rows/s      raw/s  ratio (quartiles)           command    broker     Vault        raw Vault, raw
`

// result returns a line with the medians of the turns.
func (l *importLab) result(name string, imports, raw []*turn) string {
	median := func(turns []*turn, f func(*turn) float64) float64 { return stats.Median(each(turns, f)) }
	line := fmt.Sprintf("%-28s %9.0f %10.0f  %-23s %9.1f %9.1f", name,
		median(imports, (*turn).throughput), median(raw, (*turn).throughput), ratios(imports, raw, (*turn).throughput),
		median(imports, (*turn).commandCPUPerRequest)/1e3, median(imports, (*turn).cpuPerRequest)/1e3)
	if l.store == 0 {
		return line + fmt.Sprintf(" %9s %10.1f\n", "", median(raw, (*turn).cpuPerRequest)/1e3)
	}
	line += fmt.Sprintf(" %9.1f %10.1f %10.1f", median(imports, (*turn).storeCPUPerRequest)/1e3,
		median(raw, (*turn).cpuPerRequest)/1e3, median(raw, (*turn).storeCPUPerRequest)/1e3)
	return line + "\n"
}

// isReportOf reports whether the command says that it created so many connections, and nothing
// else.
func isReportOf(report string, rows int) bool {
	for line := range strings.Lines(report) {
		if slices.Equal(strings.Fields(line), []string{strconv.Itoa(rows), "0", "0", "0", "all"}) {
			return true
		}
	}
	return false
}
