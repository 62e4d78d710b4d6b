package tests

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
)

// Deadlines, generous enough for busy machines.
const (
	buildTimeout = 15 * time.Minute
	waitTimeout  = 30 * time.Second // of eventually, and of requests
	pollInterval = 20 * time.Millisecond
)

// binary is the path of the token-broker under test, root that of the repository. TestMain
// sets them.
var binary, root string

func TestMain(m *testing.M) {
	flag.Parse()
	// Tests mostly wait, so run more of them than there are CPUs.
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "token-broker-tests-")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return vaulttest.Main(m)
}

// build builds the binary, unless TOKEN_BROKER_BIN names one.
func build(dir string) error {
	var err error
	if root, err = findRoot(); err != nil {
		return err
	}
	if path := os.Getenv("TOKEN_BROKER_BIN"); path != "" {
		binary, err = filepath.Abs(path)
		return err
	}
	binary = filepath.Join(dir, "token-broker")
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-race", "-o", binary, "./cmd/token-broker")
	cmd.Dir, cmd.Stdout, cmd.Stderr = root, os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building token-broker: %w", err)
	}
	return nil
}

func findRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "cmd", "token-broker")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("no directory above the tests has cmd/token-broker")
}

// eventually waits until try returns nil.
func eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	brokertest.Eventually(t, waitTimeout, what, try)
}
