package vaulttest

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

// shared is the server that all tests of a package share, started by the first call of Shared.
var shared struct {
	once   sync.Once
	dir    string
	server *Server
	err    error
}

// Shared returns the one server of a test package. Its TestMain must call [Main]. Tests use
// separate prefixes or mounts, and leave the server running and unsealed.
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

// Main runs the tests of a package without the user's VAULT_* variables, and stops the
// [Shared] server afterwards. TestMain passes the result to os.Exit.
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
