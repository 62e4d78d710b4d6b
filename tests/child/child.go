// Package child runs the built token-broker for the programs that measure it.
package child

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// stopTimeout is how long a process may take to end.
const stopTimeout = 30 * time.Second

// A Process is a child of this one.
type Process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has ended
}

// Start starts cmd with start, which may be cmd.Start.
func Start(cmd *exec.Cmd, start func() error) (*Process, error) {
	if err := start(); err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, exited: make(chan struct{})}
	go func() {
		defer close(p.exited)
		_ = cmd.Wait()
	}()
	return p, nil
}

// ID returns the process id.
func (p *Process) ID() int { return p.cmd.Process.Pid }

// HasExited reports whether the process has ended.
func (p *Process) HasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// Stop ends the process as a supervisor would, and waits until it has ended. If that takes too
// long, it kills the process and returns an error.
func (p *Process) Stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(stopTimeout):
		return errors.Join(errors.New("the process did not end in time"), p.cmd.Process.Kill())
	}
}

// FreePort returns a port of 127.0.0.1 that nothing listens on.
func FreePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port, nil
}
