package journal

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
)

func TestMain(m *testing.M) { os.Exit(brokertest.Main(m, child)) }

// lethal is a disk that kills the process at one of its steps. There is one before and one
// after each operation; the one before a write comes when half of the data is written.
type lethal struct {
	osDisk
	left int
}

// step calls last at the lethal step, before it kills the process.
func (d *lethal) step(last func()) {
	if d.left--; d.left != 0 {
		return
	}
	last()
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	if err != nil {
		panic(err)
	}
	select {}
}

func (d *lethal) WriteAt(f *os.File, b []byte, offset int64) (int, error) {
	d.step(func() { _, _ = f.WriteAt(b[:len(b)/2], offset) })
	n, err := d.osDisk.WriteAt(f, b, offset)
	d.step(func() {})
	return n, err
}

func (d *lethal) Truncate(f *os.File, size int64) error {
	d.step(func() {})
	err := d.osDisk.Truncate(f, size)
	d.step(func() {})
	return err
}

func (d *lethal) Sync(f *os.File) error {
	d.step(func() {})
	err := d.osDisk.Sync(f)
	d.step(func() {})
	return err
}

// child uses the journal in a directory, and kills itself at the given step of its disk. It
// prints a line before and after each change: +id and +id! for Put, -id and -id! for
// Remove. If it comes to the end it prints "done" and waits for its standard input to end.
func child(args []string) error {
	dir := args[0]
	step, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	j := Open(Config{Dir: dir})
	j.disk = &lethal{left: step}
	put := func(id, data string) error {
		fmt.Println("+" + id)
		defer fmt.Println("+" + id + "!")
		return j.Put(ctx, id, []byte(data))
	}
	remove := func(id string) error {
		fmt.Println("-" + id)
		defer fmt.Println("-" + id + "!")
		return j.Remove(ctx, id)
	}
	for _, err := range j.Entries(ctx) {
		if err != nil {
			return err
		}
	}
	pid := fmt.Sprint(os.Getpid(), ":")
	for _, do := range []func() error{
		func() error { return j.Check(ctx) },
		func() error { return put(pid+"a", "1") },
		func() error { return put(pid+"b", "1") },
		func() error { return j.Check(ctx) },
		func() error { return remove("left1") },
		func() error { return remove(pid + "a") },
		func() error { return put(pid+"c", "1") },
		func() error { return remove("left2") },
		func() error { return remove(pid + "b") },
		func() error { return j.renew() },
		func() error { return remove(pid + "c") },
		func() error { return put(pid+"d", "1") },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	fmt.Println("done")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

func TestEntriesSurviveAKillBetweenAnyTwoSteps(t *testing.T) {
	t.Parallel()
	for step, done := 1, false; !done; step++ {
		dir := t.TempDir()
		left := open(t, dir)
		put(t, left, "left1", "1")
		put(t, left, "left2", "1")
		closeJournal(t, left)

		c := startChild(t, dir, step)
		fate := map[string]string{"left1": "+!", "left2": "+!"}
		done = follow(c, fate)
		c.Kill(t)
		wantFate(t, fmt.Sprint("killed at step ", step), dir, fate)
		if done && step < 30 {
			t.Errorf("only %d steps could be interrupted", step)
		}
		if step > 200 {
			t.Fatal("the child never reaches its end")
		}
	}
}

func TestProcessesThatDieTogetherLoseNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fate := make(map[string]string)
	children := make([]*brokertest.Child, 4)
	for i := range children {
		children[i] = startChild(t, dir, 13+7*i) // all of them start in an empty directory
	}
	for _, c := range children {
		follow(c, fate)
	}
	for _, c := range children {
		c.Kill(t)
	}
	wantFate(t, "killed", dir, fate)
}

// wantFate compares the entries of the journal with the output of the dead processes.
func wantFate(t *testing.T, when, dir string, fate map[string]string) {
	t.Helper()
	j := open(t, dir)
	got := make(map[string]bool)
	for entry, err := range j.Entries(t.Context()) {
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		got[entry.ID] = true
	}
	for id, last := range fate {
		switch {
		case last == "+!" && !got[id]:
			t.Errorf("%s: entry %s is lost", when, id)
		case last == "-!" && got[id]:
			t.Errorf("%s: entry %s is back", when, id)
		}
	}
	for id := range got {
		if _, known := fate[id]; !known {
			t.Errorf("%s: unknown entry %s", when, id)
		}
		remove(t, j, id)
	}
	closeJournal(t, j)
	if left := logs(t, dir); len(left) != 0 {
		t.Errorf("%s: files that remain: %v", when, left)
	}
}

func startChild(t *testing.T, dir string, step int) *brokertest.Child {
	t.Helper()
	return brokertest.StartChild(t, dir, strconv.Itoa(step))
}

// follow records the child's output in fate until the child is dead or done. It reports
// whether the child is done.
func follow(c *brokertest.Child, fate map[string]string) bool {
	for out := bufio.NewScanner(c.Stdout); out.Scan(); {
		line := out.Text()
		if line == "done" {
			return true
		}
		id, finished := strings.CutSuffix(line[1:], "!")
		fate[id] = line[:1]
		if finished {
			fate[id] += "!"
		}
	}
	return false
}
