package tokenbroker_test

import (
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tokenbroker/caddy-token-broker"

// allowed says which packages of this module each one may import, tests apart. Everything
// flows down: a package is above all that it imports. What is not here may not be
// imported, and a package that is not here fails the test.
var allowed = map[string]string{
	".":                   "caddymodule",
	"cmd/token-broker":    ".",
	"caddymodule":         "caddymodule/admin caddymodule/command caddymodule/connectionsapi caddymodule/proxy caddymodule/sandbox caddymodule/storage caddymodule/tokenbroker caddymodule/transport",
	"caddymodule/admin":   "caddymodule/tokenbroker",
	"caddymodule/command": "caddymodule/command/client caddymodule/command/importing caddymodule/command/sealed caddymodule/command/verifying caddymodule/placeholder caddymodule/storage caddymodule/tokenbroker broker/connector broker/export broker/record broker/secret broker/status broker/storecopy broker/transfer",

	"caddymodule/command/client":    "caddymodule/command/sealed broker/secret internal/retryafter",
	"caddymodule/command/importing": "caddymodule/command/client caddymodule/command/sealed broker/connector broker/record broker/transfer",
	"caddymodule/command/verifying": "caddymodule/command/client broker/secret broker/transfer",

	// The handlers and the transport.
	"caddymodule/connectionsapi": "caddymodule/tokenbroker caddymodule/apierror broker broker/apideck broker/connector broker/record",
	"caddymodule/proxy":          "broker broker/apideck broker/connector broker/guard broker/record broker/secret caddymodule/apierror caddymodule/argument caddymodule/exchange caddymodule/fields caddymodule/tokenbroker",
	"caddymodule/transport":      "broker broker/apideck broker/connector broker/guard broker/record caddymodule/apierror caddymodule/argument caddymodule/exchange caddymodule/fields caddymodule/placeholder caddymodule/tokenbroker",

	// The app, and what it stands on.
	"caddymodule/tokenbroker":        "caddymodule/storage caddymodule/caller caddymodule/argument caddymodule/fields caddymodule/placeholder broker broker/connector broker/journal broker/record broker/webhook",
	"caddymodule/storage":            "caddymodule/argument caddymodule/placeholder broker/boltstore broker/record broker/secret broker/storesocket broker/vaultkv",
	"caddymodule/exchange":           "caddymodule/apierror caddymodule/fields broker broker/guard",
	"caddymodule/caller":             "caddymodule/apierror broker/apideck broker/secret",
	"caddymodule/apierror":           "broker broker/guard broker/record",
	"caddymodule/placeholder":        "broker/secret",
	"caddymodule/command/sealed":     "internal/syncdir",
	"caddymodule/argument":           "",
	"caddymodule/fields":             "",
	"caddymodule/sandbox":            "",
	"caddymodule/internal/caddytest": "",

	// The library: the facade, the engine and its mechanism. Stores, journal and webhooks know
	// the records and none of these.
	"broker":                        "broker/connector broker/internal/clock broker/internal/engine broker/internal/inject broker/internal/pace broker/internal/revocation broker/internal/standby broker/internal/tracing broker/record broker/secret",
	"broker/internal/engine":        "broker/connector broker/guard broker/internal/breaker broker/internal/clock broker/internal/inject broker/internal/outage broker/internal/pace broker/internal/revocation broker/internal/sharded broker/internal/storequeue broker/internal/sweep broker/internal/tokenendpoint broker/record broker/secret broker/internal/tracing",
	"broker/internal/sweep":         "broker/connector broker/internal/clock broker/internal/storequeue broker/internal/tracing broker/record broker/secret",
	"broker/internal/standby":       "broker/internal/clock broker/record",
	"broker/internal/breaker":       "broker/connector broker/internal/clock broker/internal/priority broker/record broker/secret",
	"broker/internal/revocation":    "broker/connector broker/internal/clock broker/internal/tokenendpoint broker/internal/tracing broker/record broker/secret",
	"broker/internal/storequeue":    "broker/internal/priority broker/record",
	"broker/internal/pace":          "broker/connector broker/internal/clock broker/internal/priority broker/record",
	"broker/internal/tracing":       "broker/internal/tokenendpoint broker/record",
	"broker/apideck":                "broker/connector broker/record broker/secret",
	"broker/transfer":               "broker/apideck broker/connector broker/record broker/secret",
	"broker/webhook":                "broker/guard internal/retryafter broker/record broker/secret",
	"broker/storesocket":            "broker/connector broker/record",
	"broker/export":                 "broker/internal/quiesce broker/record broker/transfer",
	"broker/storecopy":              "broker/internal/quiesce broker/record",
	"broker/status":                 "broker/connector broker/internal/quiesce broker/record",
	"broker/internal/quiesce":       "broker/connector broker/internal/clock broker/record",
	"broker/vaultkv":                "broker/connector broker/record broker/secret",
	"broker/boltstore":              "broker/boltstore/internal/boltfile broker/connector broker/internal/keyfile broker/record broker/secret internal/syncdir",
	"broker/journal":                "broker/internal/keyfile broker/record internal/syncdir",
	"broker/internal/tokenendpoint": "broker/connector broker/guard internal/retryafter broker/record broker/secret",
	"broker/internal/inject":        "broker/connector broker/secret",
	"broker/record":                 "broker/connector broker/secret",
	"broker/connector":              "",
	"broker/guard":                  "",
	"broker/secret":                 "",
	"broker/internal/keyfile":       "internal/syncdir",
	"internal/retryafter":           "",
	"internal/syncdir":              "",
	"broker/internal/sharded":       "",
	"broker/internal/clock":         "",
	"broker/internal/priority":      "",
	"broker/internal/outage":        "",

	// The mechanism of a store.
	"broker/boltstore/internal/boltfile": "",

	// For tests.
	"broker/internal/model":        "",
	"broker/brokertest":            "broker/connector broker/record broker/secret",
	"broker/brokertest/answertest": "broker/record",
	"broker/brokertest/dnstest":    "",
	"broker/brokertest/vaulttest":  "broker/brokertest",
	"broker/transfer/transfertest": "broker/connector broker/secret broker/transfer",
}

// foreign says which packages alone may import a dependency, tests apart. The key is a
// prefix of import paths.
var foreign = map[string]string{
	"golang.org/x/oauth2":           "broker broker/internal/tokenendpoint",
	"github.com/hashicorp/vault/":   "broker/vaultkv broker/brokertest/vaulttest",
	"go.etcd.io/bbolt":              "broker/boltstore",
	"filippo.io/age":                "caddymodule/command/...",
	"github.com/tink-crypto/":       "broker/boltstore broker/journal broker/internal/keyfile",
	"github.com/caddyserver/caddy/": "cmd/token-broker caddymodule/...",
}

// list runs `go list` and returns the words that format makes of each package, by the path
// below the module.
func list(t *testing.T, format string) map[string][]string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command("go", "list", "-f", "{{.ImportPath}} "+format, "./...")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	packages := make(map[string][]string)
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		packages[below(words[0])] = words[1:]
	}
	if len(packages) < 10 {
		t.Fatalf("go list found %d packages only", len(packages))
	}
	return packages
}

// below returns a package's path below the module, or the path itself if it is foreign.
func below(path string) string {
	if path == module {
		return "."
	}
	return strings.TrimPrefix(path, module+"/")
}

// includes reports whether a package is one of the list. An entry that ends in /... stands
// for a folder.
func includes(list, pkg string) bool {
	return slices.ContainsFunc(strings.Fields(list), func(entry string) bool {
		folder, isFolder := strings.CutSuffix(entry, "/...")
		return entry == pkg || isFolder && (pkg == folder || strings.HasPrefix(pkg, folder+"/"))
	})
}

func TestPackagesImportOnlyWhatIsBelowThem(t *testing.T) {
	t.Parallel()
	for pkg, imports := range list(t, `{{join .Imports " "}}`) {
		mayImport, known := allowed[pkg]
		if !known {
			t.Errorf("%s is not in the table of this test: say there what it may import", pkg)
			continue
		}
		for _, path := range imports {
			if other := below(path); other != path && !includes(mayImport, other) {
				t.Errorf("%s imports %s", pkg, other)
			}
		}
		for other := range strings.FieldsSeq(mayImport) {
			if !slices.ContainsFunc(imports, func(path string) bool { return below(path) == other }) {
				t.Errorf("%s does not import %s: remove it from the table", pkg, other)
			}
		}
	}
}

func TestDependenciesAreImportedWhereTheyBelong(t *testing.T) {
	t.Parallel()
	for pkg, imports := range list(t, `{{join .Imports " "}}`) {
		for _, path := range imports {
			for prefix, packages := range foreign {
				if strings.HasPrefix(path, prefix) && !includes(packages, pkg) {
					t.Errorf("%s imports %s, which is for %s", pkg, path, packages)
				}
			}
		}
	}
}

// TestRecordsKnowNoNetwork: the rules of records are about data and times that they are
// given.
func TestRecordsKnowNoNetwork(t *testing.T) {
	t.Parallel()
	for _, path := range list(t, `{{join .Imports " "}}`)["broker/record"] {
		if path == "net" || path == "net/http" || path == "os" {
			t.Errorf("broker/record imports %s", path)
		}
	}
}

// TestLibraryKnowsNoCaddy looks at what is imported in whatever way, by tests too.
func TestLibraryKnowsNoCaddy(t *testing.T) {
	t.Parallel()
	for pkg, dependencies := range list(t, `{{join .Deps " "}} {{join .TestImports " "}} {{join .XTestImports " "}}`) {
		for _, path := range dependencies {
			if strings.HasPrefix(pkg, "broker") && (strings.HasPrefix(path, "github.com/caddyserver/caddy/") || strings.HasPrefix(path, module+"/caddymodule")) {
				t.Errorf("%s depends on %s", pkg, path)
			}
		}
	}
}

// TestAdapterKnowsNoOAuth looks at tests too.
func TestAdapterKnowsNoOAuth(t *testing.T) {
	t.Parallel()
	for pkg, imports := range list(t, `{{join .Imports " "}} {{join .TestImports " "}} {{join .XTestImports " "}}`) {
		for _, path := range imports {
			if strings.HasPrefix(pkg, "caddymodule") && (strings.HasPrefix(path, "golang.org/x/oauth2") || strings.HasPrefix(path, "github.com/hashicorp/vault/")) {
				t.Errorf("%s imports %s", pkg, path)
			}
		}
	}
}
