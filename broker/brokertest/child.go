package brokertest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
)

// childEnv is set in the environment of a [Child].
const childEnv = "BROKERTEST_CHILD"

// Main runs the tests of a package; in a process that [StartChild] has started, it runs
// child with that process's arguments instead. TestMain calls it, and passes the result to
// os.Exit.
func Main(m *testing.M, child func(args []string) error) int {
	if os.Getenv(childEnv) == "" {
		return m.Run()
	}
	if err := child(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// A Child is another process of a test: the test binary itself, started again.
type Child struct {
	Stdout *bufio.Reader

	cmd   *exec.Cmd
	stdin io.Closer
}

// StartChild starts a child process. It is killed when the test ends, if it has not ended.
func StartChild(t testing.TB, args ...string) *Child {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), childEnv+"=1")
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
	return &Child{Stdout: bufio.NewReader(stdout), cmd: cmd, stdin: stdin}
}

// PID returns the process id.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// End closes standard input, which asks the child to end, and waits for it. The test fails
// if the child does.
func (c *Child) End(t testing.TB) {
	t.Helper()
	_ = c.stdin.Close()
	_, _ = io.Copy(io.Discard, c.Stdout)
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("the child process: %v", err)
	}
}

// Kill kills the child, which may be dead already, and returns the output not read so far.
func (c *Child) Kill(t testing.TB) (rest string) {
	t.Helper()
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("killing the child process: %v", err)
	}
	output, err := io.ReadAll(c.Stdout)
	if err != nil {
		t.Errorf("reading the output of the child process: %v", err)
	}
	_ = c.cmd.Wait() // it reports the kill
	return string(output)
}
