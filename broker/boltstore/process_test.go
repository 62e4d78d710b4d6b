package boltstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestMain(m *testing.M) { os.Exit(brokertest.Main(m, rekeyOr(child))) }

// child opens the store in a directory and saves the connections of some consumers over and over, all at the same
// time, until standard input ends. After each save it prints the consumer and the generation.
func child(args []string) error {
	dir, consumers := args[0], args[1:]
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	store, err := boltstore.Open(ctx, boltstore.Config{Dir: dir, LockTimeout: time.Minute})
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	failed := make(chan error, len(consumers))
	for _, consumer := range consumers {
		go func() { failed <- saveOverAndOver(ctx, store, consumer) }()
	}
	for range consumers {
		if err := <-failed; err != nil {
			return err
		}
	}
	return store.Close()
}

// saveOverAndOver ends without an error if ctx does.
func saveOverAndOver(ctx context.Context, store record.Store, consumer string) error {
	var rev record.Revision
	for generation := uint64(1); ctx.Err() == nil; generation++ {
		rec := newRecord(consumer, "secret")
		rec.Generation = generation
		saved, err := store.Save(ctx, rec, rev)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil {
			rev = saved
			fmt.Println(consumer, generation)
		}
	}
	return nil
}

func TestSecondOpenInTheProcessIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openStore(t, dir)
	wantOpenError(t, dir+"/.", boltstore.ErrLocked, strconv.Itoa(os.Getpid()))
	closeStore(t, store)
	closeStore(t, openStore(t, dir))
}

func TestLockedStoreNamesItsHolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	other := brokertest.StartChild(t, dir, "ann")
	nextGeneration(t, other)
	_, err := boltstore.Open(t.Context(), boltstore.Config{Dir: dir, LockTimeout: 200 * time.Millisecond})
	if !errors.Is(err, boltstore.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", other.PID())) {
		t.Errorf("Open = %v; want ErrLocked that names process %d", err, other.PID())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = boltstore.Open(ctx, boltstore.Config{Dir: dir, LockTimeout: time.Minute})
	if !errors.Is(err, boltstore.ErrLocked) || !errors.Is(err, context.Canceled) {
		t.Errorf("Open with a cancelled context = %v; want ErrLocked and context.Canceled", err)
	}
}

func TestWhatWasSavedSurvivesAKill(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 30} { // by so many at a time, which save in groups
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			args := []string{dir}
			for i := range n {
				args = append(args, fmt.Sprint("consumer-", i))
			}
			other := brokertest.StartChild(t, args...)
			acknowledged := make(map[string]uint64)
			for range 20 * n {
				consumer, generation := nextGeneration(t, other)
				acknowledged[consumer] = generation
			}
			for line := range strings.Lines(other.Kill(t)) {
				var consumer string
				var generation uint64
				if _, err := fmt.Sscanln(line, &consumer, &generation); err == nil && strings.HasSuffix(line, "\n") {
					acknowledged[consumer] = generation
				}
			}
			store := openStore(t, dir)
			for consumer, want := range acknowledged {
				rec, _, err := store.Load(t.Context(), key(consumer))
				if err != nil || rec.Generation < want {
					t.Errorf("Load of %s = %v, %v; want generation %d or later", consumer, rec, err, want)
				}
			}
			closeStore(t, store)
			if report, err := boltstore.Check(t.Context(), boltstore.Config{Dir: dir}); err != nil || len(report.Damage) > 0 {
				t.Errorf("Check = %+v, %v; want no damage", report, err)
			}
		})
	}
}

// All of them find an empty directory. Only one key must be created.
func TestProcessesThatRaceForANewStoreShareItsKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	consumers := []string{"ann", "bob", "cyd"}
	saved := make(chan *brokertest.Child, len(consumers))
	for _, consumer := range consumers {
		c := brokertest.StartChild(t, dir, consumer)
		go func() {
			if _, err := c.Stdout.Peek(1); err == nil {
				saved <- c
			}
		}()
	}
	for range consumers {
		select {
		case c := <-saved:
			c.End(t) // lets the next one open the store
		case <-time.After(30 * time.Second):
			t.Fatal("no process saved its record")
		}
	}
	store := openStore(t, dir)
	for _, consumer := range consumers {
		if _, _, err := store.Load(t.Context(), key(consumer)); err != nil {
			t.Errorf("Load of %s: %v", consumer, err)
		}
	}
}

// nextGeneration waits for the child's next save, which its own deadline bounds.
func nextGeneration(t *testing.T, c *brokertest.Child) (consumer string, generation uint64) {
	t.Helper()
	if _, err := fmt.Fscanln(c.Stdout, &consumer, &generation); err != nil {
		t.Fatalf("the other process: %v", err)
	}
	return consumer, generation
}
