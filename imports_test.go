package tokenbroker_test

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/tokenbroker/caddy-token-broker"

// list runs `go list` and returns, for each package of the patterns, what format makes
// of it, words separated by spaces, the package's path first.
func list(t *testing.T, format, pattern string) [][]string {
	t.Helper()
	args := []string{"list", "-f", "{{.ImportPath}} " + format, pattern}
	var stderr bytes.Buffer
	cmd := exec.Command("go", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	var packages [][]string
	for line := range strings.Lines(string(out)) {
		packages = append(packages, strings.Fields(line))
	}
	if len(packages) == 0 {
		t.Fatalf("there is no package %s", pattern)
	}
	return packages
}

func TestBrokerKnowsNoCaddy(t *testing.T) {
	t.Parallel()
	for _, words := range list(t, `{{join .Deps " "}}`, "./broker/...") {
		for _, dep := range words[1:] {
			if strings.HasPrefix(dep, "github.com/caddyserver/caddy/") || strings.HasPrefix(dep, module+"/caddymodule") {
				t.Errorf("%s depends on %s", words[0], dep)
			}
		}
	}
}

func TestAdapterKnowsNoOAuth(t *testing.T) {
	t.Parallel()
	for _, words := range list(t, `{{join .Imports " "}} {{join .TestImports " "}} {{join .XTestImports " "}}`, "./caddymodule/...") {
		for _, dep := range words[1:] {
			if strings.HasPrefix(dep, "golang.org/x/oauth2") || strings.HasPrefix(dep, "github.com/hashicorp/vault/") {
				t.Errorf("%s imports %s", words[0], dep)
			}
		}
	}
}
