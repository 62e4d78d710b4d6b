package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/exec"
	"strings"
	"time"
)

// The roles that bench starts itself in.
const (
	roleUpstream = "upstream"
	roleBare     = "bare"
	roleHop      = "hop"
)

// A self is another process of this program.
type self struct {
	addresses [2]string // that it listens on, in the order in which it printed them
	cmd       *exec.Cmd
	stdin     io.Closer
}

// startSelf starts this program on some CPUs and waits for its addresses.
func startSelf(ctx context.Context, cpus []int, role string, arguments ...string) (*self, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &self{cmd: exec.CommandContext(ctx, path, append([]string{"-role", role}, arguments...)...)}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stderr = os.Stderr
	if err := startOn(p.cmd, cpus); err != nil {
		return nil, err
	}
	if _, err := fmt.Fscanln(bufio.NewReader(stdout), &p.addresses[0], &p.addresses[1]); err != nil {
		p.stop()
		return nil, fmt.Errorf("bench as %s did not print its addresses: %w", role, err)
	}
	return p, nil
}

func (p *self) id() int { return p.cmd.Process.Pid }

func (p *self) stop() {
	_ = p.stdin.Close()
	_ = p.cmd.Wait()
}

// listenAsSelf opens the listeners of a process that [startSelf] started, and prints their
// addresses. They are closed when the process that started this one ends.
func listenAsSelf() (listeners [2]net.Listener, err error) {
	var addresses []string
	for i := range listeners {
		if listeners[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return listeners, err
		}
		addresses = append(addresses, listeners[i].Addr().String())
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		for _, listener := range listeners {
			_ = listener.Close()
		}
	}()
	_, err = fmt.Println(strings.Join(addresses, " "))
	return listeners, err
}

// serveAsSelf serves requests on the first listener and profiles on the second.
func serveAsSelf(handler http.Handler) error {
	listeners, err := listenAsSelf()
	if err != nil {
		return err
	}
	profiles := http.NewServeMux()
	profiles.HandleFunc("/debug/pprof/profile", pprof.Profile)
	for _, kind := range []string{"allocs", "heap"} {
		profiles.Handle("/debug/pprof/"+kind, pprof.Handler(kind))
	}
	go func() { _ = http.Serve(listeners[1], profiles) }()
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: handler}
	if err := server.Serve(listeners[0]); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
