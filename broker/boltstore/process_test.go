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

// child opens the store in a directory and saves a consumer's connection over and over,
// until standard input ends. It prints the generation after each save.
func child(args []string) error {
	dir, consumer := args[0], args[1]
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
	var rev record.Revision
	for generation := uint64(1); ; generation++ {
		rec := newRecord(consumer, "secret")
		rec.Generation = generation
		rev, err = store.Save(ctx, rec, rev)
		if ctx.Err() != nil {
			return store.Close()
		}
		if err != nil {
			return err
		}
		fmt.Println(generation)
	}
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
	dir := t.TempDir()
	other := brokertest.StartChild(t, dir, "ann")
	var acknowledged uint64
	for range 20 {
		acknowledged = nextGeneration(t, other)
	}
	acknowledged += uint64(strings.Count(other.Kill(t), "\n"))

	rec, _, err := openStore(t, dir).Load(t.Context(), key("ann"))
	if err != nil || rec.Generation < acknowledged {
		t.Errorf("Load = %v, %v; want generation %d or later", rec, err, acknowledged)
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
func nextGeneration(t *testing.T, c *brokertest.Child) (generation uint64) {
	t.Helper()
	if _, err := fmt.Fscanln(c.Stdout, &generation); err != nil {
		t.Fatalf("the other process: %v", err)
	}
	return generation
}
