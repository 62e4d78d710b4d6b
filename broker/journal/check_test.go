package journal

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// A counting disk counts what is synced.
type counting struct {
	osDisk
	syncs atomic.Int64
}

func (d *counting) Sync(f *os.File) error {
	d.syncs.Add(1)
	return d.osDisk.Sync(f)
}

func TestChecksThatWaitShareAProbe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		j := open(t, dir)
		check(t, j)
		d := &counting{}
		j.own.disk, j.disk = d, d
		const callers = 20
		results := make(chan error, callers)
		giveUp, cancel := context.WithCancel(t.Context())
		j.busy <- struct{}{} // an operation in progress
		go func() { results <- j.Check(giveUp) }()
		synctest.Wait() // it is the one that would write the probe of all others
		for range callers - 1 {
			go func() { results <- j.Check(t.Context()) }()
		}
		synctest.Wait()
		cancel()
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("the one that gave up got %v", err)
		}
		synctest.Wait()
		<-j.busy
		for range callers - 1 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if got := d.syncs.Load(); got != 1 {
			t.Errorf("the disk was synced %d times, want once", got)
		}
		check(t, j)
		if got := d.syncs.Load(); got != 2 {
			t.Errorf("a later check did not sync: %d in all, want 2", got)
		}
	})
}
