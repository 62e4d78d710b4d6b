package tests

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// An example is the repository's Caddyfile.example, running as it is but for its ports.
type example struct {
	*process
	ports map[string]string // as they are written :: as they are
}

// defaultAdminPort is Caddy's, which the example does not change.
const defaultAdminPort = "2019"

var writtenPort = regexp.MustCompile(`\b(127\.0\.0\.1|localhost):(\d+)\b`)

// startExample runs the example with those replacements.
func startExample(t *testing.T, replacements ...string) *example {
	t.Helper()
	content := readFromRoot(t, "Caddyfile.example")
	e := &example{ports: map[string]string{defaultAdminPort: strconv.Itoa(freePort(t))}}
	for _, match := range writtenPort.FindAllStringSubmatch(content, -1) {
		if e.ports[match[2]] == "" {
			e.ports[match[2]] = strconv.Itoa(freePort(t))
		}
	}
	admin, err := strconv.Atoi(e.ports[defaultAdminPort])
	if err != nil {
		t.Fatal(err)
	}
	d := &deployment{dir: t.TempDir(), env: []string{fmt.Sprintf("CADDY_ADMIN=127.0.0.1:%d", admin)}}
	e.process = d.runCaddyfile(t, ports{Admin: admin}, strings.NewReplacer(replacements...).Replace(e.rewrite(content)))
	e.awaitReady(t)
	return e
}

// rewrite puts the real ports and the real binary into commands or a configuration.
func (e *example) rewrite(s string) string {
	s = writtenPort.ReplaceAllStringFunc(s, func(address string) string {
		host, port, _ := strings.Cut(address, ":")
		if e.ports[port] == "" {
			return address
		}
		return host + ":" + e.ports[port]
	})
	return strings.ReplaceAll(s, "./token-broker", binary)
}

// bash runs commands as somebody would who pastes them, in the repository.
func (e *example) bash(t *testing.T, commands string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", e.rewrite(commands))
	cmd.Dir = root
	cmd.Env = e.deployment.command().Env
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v:\n%s\nprinted\n%s%s", err, commands, out, &stderr)
	}
	return string(out)
}

func readFromRoot(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// The commands in the comment at the top of the example do what it says.
func TestExampleCommandsWork(t *testing.T) {
	t.Parallel()
	// A token of the example lives for a minute, which is long to wait.
	e := startExample(t, "token_lifetime 1m", "token_lifetime 3s")
	steps := commandsInComment(readFromRoot(t, "Caddyfile.example"))
	if len(steps) != 5 || !strings.Contains(steps[0], "run --config Caddyfile.example") {
		t.Fatalf("the commands are %q, want five steps, the first of which starts the example", steps)
	}
	if got := e.bash(t, steps[1]); !strings.Contains(got, `"state":"callable"`) {
		t.Errorf("importing prints %s, want a connection that is callable", got)
	}
	if got := e.bash(t, steps[2]); !strings.Contains(got, `"path":"/api/hello"`) || !strings.Contains(got, `"token_number"`) {
		t.Errorf("calling prints %s, want that the third party has seen a token", got)
	}
	if got := e.bash(t, steps[3]); !strings.Contains(got, `"path":"/api/hello"`) || !strings.Contains(got, `"token_number"`) {
		t.Errorf("calling by URL prints %s, want that the third party has seen a token", got)
	}
	if got := e.bash(t, steps[4]); !strings.Contains(got, "invalid_grant") {
		t.Errorf("breaking the grant prints %s, want that the third party has refused", got)
	}
	webhooks := "http://127.0.0.1:" + e.ports["8089"] + "/webhooks"
	eventually(t, "the webhook", func() error {
		// Demand, so that the refresh is not waited for any longer than it has to be.
		e.bash(t, steps[2])
		got, err := get(webhooks, http.Header{})
		if err == nil && (!strings.Contains(string(got.body), failedEvent) || !strings.Contains(string(got.body), `"verified":true`)) {
			err = errors.New(got.String())
		}
		return err
	})
}

// commandsInComment returns the indented commands in the comment that a Caddyfile
// begins with, those in lines that follow each other as one.
func commandsInComment(caddyfile string) []string {
	var steps []string
	inStep := false
	for line := range strings.Lines(caddyfile) {
		if !strings.HasPrefix(line, "#") {
			break
		}
		command, isCommand := strings.CutPrefix(line, "#\t")
		if isCommand && inStep {
			steps[len(steps)-1] += command
		} else if isCommand {
			steps = append(steps, command)
		}
		inStep = isCommand
	}
	return steps
}
