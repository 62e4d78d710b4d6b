package boltstore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// childDir tells the test binary that it is another process of a test, and where.
const childDir = "BOLTSTORE_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := child(dir, os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child opens the store and saves the connection of a consumer again and again,
// printing the generation each time that it was saved, until standard input ends.
func child(dir, consumer string) error {
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
	other := startChild(t, dir, "ann")
	other.next(t)
	_, err := boltstore.Open(t.Context(), boltstore.Config{Dir: dir, LockTimeout: 200 * time.Millisecond})
	if !errors.Is(err, boltstore.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", other.cmd.Process.Pid)) {
		t.Errorf("Open = %v; want ErrLocked that names process %d", err, other.cmd.Process.Pid)
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
	other := startChild(t, dir, "ann")
	var acknowledged uint64
	for range 20 {
		acknowledged = other.next(t)
	}
	if err := other.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(other.out)
	_ = other.cmd.Wait()
	acknowledged += uint64(strings.Count(string(rest), "\n"))

	rec, _, err := openStore(t, dir).Load(t.Context(), key("ann"))
	if err != nil || rec.Generation < acknowledged {
		t.Errorf("Load = %v, %v; want generation %d or later", rec, err, acknowledged)
	}
}

// All of them come upon an empty directory; there must be one key.
func TestProcessesThatRaceForANewStoreShareItsKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	consumers := []string{"ann", "bob", "cyd"}
	saved := make(chan *childProcess, len(consumers))
	for _, consumer := range consumers {
		c := startChild(t, dir, consumer)
		go func() {
			if _, err := c.out.Peek(1); err == nil {
				saved <- c
			}
		}()
	}
	for range consumers {
		select {
		case c := <-saved:
			c.end(t) // lets the next one in
		case <-time.After(30 * time.Second):
			t.Fatal("no process could save")
		}
	}
	store := openStore(t, dir)
	for _, consumer := range consumers {
		if _, _, err := store.Load(t.Context(), key(consumer)); err != nil {
			t.Errorf("Load of %s: %v", consumer, err)
		}
	}
}

type childProcess struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   *bufio.Reader
}

func startChild(t *testing.T, dir, consumer string) *childProcess {
	t.Helper()
	cmd := exec.Command(os.Args[0], consumer)
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &childProcess{cmd: cmd, stdin: stdin, out: bufio.NewReader(stdout)}
}

// next waits until the child has saved once more; the child ends by itself after a
// minute at the latest.
func (c *childProcess) next(t *testing.T) (generation uint64) {
	t.Helper()
	if _, err := fmt.Fscanln(c.out, &generation); err != nil {
		t.Fatalf("the other process: %v", err)
	}
	return generation
}

func (c *childProcess) end(t *testing.T) {
	t.Helper()
	_ = c.stdin.Close()
	_, _ = io.Copy(io.Discard, c.out)
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("the other process: %v", err)
	}
}
