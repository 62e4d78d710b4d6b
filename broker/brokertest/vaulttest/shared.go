package vaulttest

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

// shared is the server of all tests of a package, started by the first that asks.
var shared struct {
	once   sync.Once
	dir    string
	server *Server
	err    error
}

// Shared returns the one server of the test package, whose TestMain has to call
// [Main]. Tests keep apart by prefixes, or mounts, of their own, and leave the server
// running and unsealed.
func Shared(t testing.TB) *Server {
	t.Helper()
	shared.once.Do(func() {
		if shared.dir == "" {
			shared.err = fmt.Errorf("TestMain does not call vaulttest.Main")
			return
		}
		shared.server, shared.err = start(shared.dir, nil)
	})
	if shared.err != nil {
		t.Fatalf("starting Vault: %v", shared.err)
	}
	return shared.server
}

// Main runs the tests of a package, without the VAULT_* variables of the user, and
// stops the [Shared] server afterwards. Its result is for os.Exit.
func Main(m *testing.M) int {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "VAULT_") && name != "VAULT_BIN" {
			_ = os.Unsetenv(name)
		}
	}
	dir, err := os.MkdirTemp("", "vaulttest-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	shared.dir = dir
	code := m.Run()
	if shared.server != nil {
		if err := shared.server.end(os.Interrupt); err != nil {
			fmt.Fprintln(os.Stderr, "stopping Vault:", err)
		}
	}
	return code
}
