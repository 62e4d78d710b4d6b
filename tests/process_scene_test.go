package tests

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/tests/child"
)

// A process is a running token-broker. It is killed at the end of the test.
type process struct {
	deployment *deployment
	ports      ports
	configPath string
	cmd        *exec.Cmd
	log        *brokertest.Log
	exited     chan struct{} // closed when the process has ended
}

// ports are the ports of a process, on 127.0.0.1.
type ports struct{ Admin, API, Sidecar int }

// run starts a process, without waiting until it is ready.
func (d *deployment) run(t testing.TB) *process {
	t.Helper()
	ports := ports{freePort(t), freePort(t), freePort(t)}
	return d.runCaddyfile(t, ports, d.caddyfile(t, ports))
}

// runCaddyfile starts a process with a configuration, without waiting until it is ready.
func (d *deployment) runCaddyfile(t testing.TB, ports ports, caddyfile string) *process {
	t.Helper()
	p := &process{
		deployment: d, ports: ports,
		configPath: filepath.Join(t.TempDir(), "Caddyfile"),
		log:        &brokertest.Log{}, exited: make(chan struct{}),
	}
	writeFile(t, p.configPath, caddyfile)
	p.cmd = d.command("run", "--config", p.configPath)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() { p.cleanUp(t) })
	return p
}

// start starts a process and waits until it is ready.
func (d *deployment) start(t testing.TB) *process {
	t.Helper()
	p := d.run(t)
	p.awaitReady(t)
	return p
}

func (p *process) awaitReady(t testing.TB) {
	t.Helper()
	eventually(t, "readiness", func() error {
		if p.hasExited() {
			t.Fatalf("token-broker has ended: %v\n%s", p.cmd.ProcessState, p.log)
		}
		return p.ready()
	})
}

// command returns a command that runs the deployment's binary; see [deployment.commandOf].
func (d *deployment) command(args ...string) *exec.Cmd {
	return d.commandOf(cmp.Or(d.binary, binary), args...)
}

// commandOf returns a command that runs a binary. Its environment contains only the variables
// of the deployment.
func (d *deployment) commandOf(binary string, args ...string) *exec.Cmd {
	all := slices.Concat(d.under, []string{binary}, args)
	cmd := exec.Command(all[0], all[1:]...)
	cmd.Dir = d.dir
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + d.dir,
		"XDG_DATA_HOME=" + filepath.Join(d.dir, "data"),
		"XDG_CONFIG_HOME=" + filepath.Join(d.dir, "config"),
	}, d.env...)
	cmd.SysProcAttr = child.DieWithParent()
	return cmd
}

func (p *process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

func (p *process) signal(t testing.TB, signal os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}

// kill ends the process as a crash would.
func (p *process) kill(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	p.awaitExit(t)
}

// terminate asks the process to end, without waiting for it.
func (p *process) terminate(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
}

// stop ends the process as a supervisor would, and checks that it exits with 0.
func (p *process) stop(t testing.TB) {
	t.Helper()
	p.terminate(t)
	p.awaitExit(t)
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("after SIGTERM the exit code is %d, want 0", code)
	}
}

func (p *process) awaitExit(t testing.TB) {
	t.Helper()
	eventually(t, "the end of the process", func() error {
		if !p.hasExited() {
			return errors.New("it is still running")
		}
		return nil
	})
}

// reload reloads the process with the deployment's current configuration.
func (p *process) reload(t testing.TB) {
	t.Helper()
	writeFile(t, p.configPath, p.deployment.caddyfile(t, p.ports))
	reload := p.deployment.command("reload", "--force", "--config", p.configPath, "--address", fmt.Sprintf("127.0.0.1:%d", p.ports.Admin))
	if out, err := reload.CombinedOutput(); err != nil {
		t.Fatalf("reload: %v\n%s", err, out)
	}
}

func (p *process) cleanUp(t testing.TB) {
	p.kill(t)
	if strings.Contains(p.log.String(), "WARNING: DATA RACE") {
		t.Error("token-broker has a data race; see its log")
	}
	if t.Failed() {
		t.Logf("the log of token-broker:\n%s", p.log)
	}
}

// The ports of processes are below those that systems use for outgoing connections, which
// could otherwise take one before the process listens on it.
const firstPort, portCount = 20000, 8000

var nextPort atomic.Int64

func init() { nextPort.Store(int64(os.Getpid())) }

// freePort returns a port that no other test uses.
func freePort(t testing.TB) int {
	t.Helper()
	for range portCount {
		port := firstPort + int(nextPort.Add(1)%portCount)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
