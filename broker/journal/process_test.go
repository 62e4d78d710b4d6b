package journal

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The environment tells the test binary that it is another process of a test.
const (
	childDir  = "JOURNAL_TEST_CHILD_DIR"
	childKill = "JOURNAL_TEST_CHILD_KILL" // the step before which it kills itself
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		step, err := strconv.Atoi(os.Getenv(childKill))
		if err == nil {
			err = child(dir, step)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// lethal is a disk that kills the process before its steps have run out, in the middle
// of a write if it is one.
type lethal struct {
	osDisk
	left int
}

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

// child says what it does before and after, each on a line: +id, +id!, -id, -id!. It
// adopts what is there, adds, replaces and removes, and at last waits for its end.
func child(dir string, step int) error {
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
		done = c.run(t, fate)
		c.kill()
		wantFate(t, fmt.Sprint("killed at step ", step), dir, fate)
		if done && step < 30 {
			t.Errorf("only %d steps could be interrupted", step)
		}
		if step > 200 {
			t.Fatal("the child never comes to its end")
		}
	}
}

func TestProcessesThatDieTogetherLoseNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fate := make(map[string]string)
	children := make([]*childProcess, 4)
	for i := range children {
		children[i] = startChild(t, dir, 13+7*i) // all of them begin in an empty directory
	}
	for _, c := range children {
		c.run(t, fate)
	}
	for _, c := range children {
		c.kill()
	}
	wantFate(t, "killed", dir, fate)
}

// wantFate compares what is in the journal with what the dead processes said.
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
		t.Errorf("%s: files stay: %v", when, left)
	}
}

type childProcess struct {
	cmd *exec.Cmd
	out *bufio.Scanner
}

func startChild(t *testing.T, dir string, step int) *childProcess {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, childKill+"="+strconv.Itoa(step))
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &childProcess{cmd: cmd, out: bufio.NewScanner(stdout)}
	t.Cleanup(c.kill)
	return c
}

// run notes what the child says until it is dead or done; done is reported.
func (c *childProcess) run(t *testing.T, fate map[string]string) bool {
	t.Helper()
	for c.out.Scan() {
		line := c.out.Text()
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

func (c *childProcess) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}
