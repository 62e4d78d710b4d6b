// Package vaulttest runs a real Vault server for tests. Without one on the machine, it builds
// Vault from source, so tests need nothing but Go.
package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
)

// Timeouts of a server. Starting includes unsealing and, with raft, the election.
const (
	startTimeout = 60 * time.Second
	stopTimeout  = 30 * time.Second
	pollInterval = 50 * time.Millisecond
)

// A Storage is where a server keeps its data.
type Storage string

// The storages that every build of Vault has. Only the data in Raft survives
// [Server.Restart].
const (
	InMemory Storage = "inmem"
	Raft     Storage = "raft"
)

// An Option changes how a server is started.
type Option func(*Server)

// WithStorage selects the storage. Default: InMemory.
func WithStorage(storage Storage) Option { return func(s *Server) { s.storage = storage } }

// WithConfig appends HCL to the server's configuration file.
func WithConfig(hcl string) Option { return func(s *Server) { s.extra += hcl + "\n" } }

// A Server is a running, unsealed Vault with a KV version 2 engine at secret/. Its
// methods are not for concurrent use.
type Server struct {
	Addr  string // "http://127.0.0.1:12345"; does not change on Restart
	Token string // the root token

	storage   Storage
	extra     string
	dir       string
	unsealKey string
	client    *api.Client
	cmd       *exec.Cmd
	exited    chan struct{}
	log       brokertest.Log
}

// Start starts a server that runs until the test ends.
func Start(t testing.TB, options ...Option) *Server {
	t.Helper()
	s, err := start(t.TempDir(), options)
	if err != nil {
		t.Fatalf("starting Vault: %v", err)
	}
	t.Cleanup(func() {
		s.Stop(t)
		if t.Failed() {
			t.Logf("the end of Vault's log:\n%s", s.logTail())
		}
	})
	return s
}

// Run starts a server outside a test, with its files in dir. It runs until [Server.Close].
func Run(dir string, options ...Option) (*Server, error) { return start(dir, options) }

// Close ends a server that [Run] started.
func (s *Server) Close() error { return s.end(os.Interrupt) }

// Client returns a client with the root token.
func (s *Server) Client() *api.Client { return s.client }

// ProcessID returns the id of the server's process. It changes on Restart.
func (s *Server) ProcessID() int { return s.cmd.Process.Pid }

// Seal seals the server.
func (s *Server) Seal(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := s.client.Sys().SealWithContext(ctx); err != nil {
		t.Fatalf("sealing Vault: %v", err)
	}
}

// Unseal unseals the server and waits until it answers again.
func (s *Server) Unseal(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := s.unseal(ctx); err != nil {
		t.Fatalf("unsealing Vault: %v", err)
	}
}

// Stop ends the server gracefully.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if err := s.end(os.Interrupt); err != nil {
		t.Errorf("stopping Vault: %v", err)
	}
}

// Kill ends the server as a crash would.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	if err := s.end(os.Kill); err != nil {
		t.Errorf("killing Vault: %v", err)
	}
}

// Restart stops the server, starts it with the same data at the same address, and unseals it.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if s.storage == InMemory {
		t.Fatal("a Vault that stores in memory would be empty after a restart: use WithStorage")
	}
	s.Stop(t)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := errors.Join(s.run(ctx), s.unseal(ctx)); err != nil {
		t.Fatalf("restarting Vault: %v\n%s", err, s.logTail())
	}
}

func start(dir string, options []Option) (*Server, error) {
	s := &Server{storage: InMemory, dir: dir}
	for _, option := range options {
		option(s)
	}
	if err := s.configure(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	err := s.run(ctx)
	if err == nil {
		err = s.initialize(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, s.logTail()), s.end(os.Kill))
	}
	return s, nil
}

// configure writes the configuration and creates the client.
func (s *Server) configure() error {
	listen, err := freeAddress()
	if err != nil {
		return err
	}
	cluster, err := freeAddress()
	if err != nil {
		return err
	}
	s.Addr = "http://" + listen
	data := filepath.Join(s.dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	storage := fmt.Sprintf("storage %q {}", s.storage)
	if s.storage != InMemory {
		storage = fmt.Sprintf("storage %q {\n path = %q\n}", s.storage, data)
	}
	hcl := fmt.Sprintf("disable_mlock = true\napi_addr = %q\ncluster_addr = %q\n"+
		"listener \"tcp\" {\n address = %q\n cluster_address = %q\n tls_disable = true\n}\n%s\n%s",
		s.Addr, "https://"+cluster, listen, cluster, storage, s.extra)
	if err := os.WriteFile(s.configPath(), []byte(hcl), 0o600); err != nil {
		return err
	}
	config := api.DefaultConfig()
	config.Address, config.AgentAddress, config.MaxRetries = s.Addr, "", 0
	if s.client, err = api.NewClient(config); err != nil {
		return err
	}
	s.client.ClearNamespace()
	return nil
}

func (s *Server) configPath() string { return filepath.Join(s.dir, "vault.hcl") }

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// run starts the process and waits until it answers.
func (s *Server) run(ctx context.Context) error {
	path, err := binary()
	if err != nil {
		return err
	}
	cmd := exec.Command(path, "server", "-config", s.configPath())
	cmd.Env = []string{"HOME=" + s.dir, "PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = &s.log, &s.log
	cmd.SysProcAttr = dieWithParent()
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	s.cmd, s.exited = cmd, exited
	go func() {
		defer close(exited)
		_ = cmd.Wait()
	}()
	return s.poll(ctx, func() error {
		_, err := s.client.Sys().SealStatusWithContext(ctx)
		return err
	})
}

func (s *Server) initialize(ctx context.Context) error {
	answer, err := s.client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return err
	}
	s.unsealKey, s.Token = answer.Keys[0], answer.RootToken
	s.client.SetToken(s.Token)
	if err := s.unseal(ctx); err != nil {
		return err
	}
	if err := s.client.Sys().MountWithContext(ctx, "secret", &api.MountInput{
		Type: "kv", Options: map[string]string{"version": "2"},
	}); err != nil {
		return err
	}
	// A new version 2 engine refuses requests until it has upgraded itself.
	return s.poll(ctx, func() error {
		_, err := s.client.KVv2("secret").GetMetadata(ctx, "nothing")
		if errors.Is(err, api.ErrSecretNotFound) {
			return nil
		}
		return err
	})
}

// unseal unseals the server and waits until it is active.
func (s *Server) unseal(ctx context.Context) error {
	if _, err := s.client.Sys().UnsealWithContext(ctx, s.unsealKey); err != nil {
		return err
	}
	return s.poll(ctx, func() error {
		health, err := s.client.Sys().HealthWithContext(ctx)
		if err == nil && (health.Sealed || health.Standby) {
			err = errors.New("sealed or on standby")
		}
		return err
	})
}

// poll calls try until it returns nil, the process ends, or ctx is done.
func (s *Server) poll(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("the server has ended: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(pollInterval):
		}
	}
}

// end sends a signal and waits for the process to end. It does nothing if that has ended.
func (s *Server) end(signal os.Signal) error {
	if s.cmd == nil {
		return nil
	}
	if err := s.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(stopTimeout):
		return errors.Join(errors.New("the server did not end in time"), s.cmd.Process.Kill())
	}
}

// logTail returns the end of the server's output.
func (s *Server) logTail() string {
	const limit = 4096
	log := s.log.String()
	return log[max(0, len(log)-limit):]
}
