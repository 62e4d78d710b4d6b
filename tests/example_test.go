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

// An example is a process that runs the repository's Caddyfile.example on other ports.
type example struct {
	*process
	ports map[string]string // real ports, by the port in the file
}

// defaultAdminPort is Caddy's default, which the example uses.
const defaultAdminPort = "2019"

var writtenPort = regexp.MustCompile(`\b(127\.0\.0\.1|localhost):(\d+)\b`)

// startExample runs the example with replacements in its text, pairs of old and new.
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

// rewrite inserts the real ports and the path of the binary.
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

// bash runs commands as if pasted into a shell, in the root of the repository.
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

// The commands in the comment at the top of the example work as described.
func TestExampleCommandsWork(t *testing.T) {
	t.Parallel()
	// Do not wait a minute for a token to expire.
	e := startExample(t, "token_lifetime 1m", "token_lifetime 3s")
	steps := commandsInComment(readFromRoot(t, "Caddyfile.example"))
	if len(steps) != 5 || !strings.Contains(steps[0], "run --config Caddyfile.example") {
		t.Fatalf("the commands are %q, want five steps, the first of which starts the example", steps)
	}
	if got := e.bash(t, steps[1]); !strings.Contains(got, `"state":"callable"`) {
		t.Errorf("importing prints %s, want a callable connection", got)
	}
	if got := e.bash(t, steps[2]); !strings.Contains(got, `"path":"/api/hello"`) || !strings.Contains(got, `"token_number"`) {
		t.Errorf("calling prints %s, want the number of the token that the third party got", got)
	}
	if got := e.bash(t, steps[3]); !strings.Contains(got, `"path":"/api/hello"`) || !strings.Contains(got, `"token_number"`) {
		t.Errorf("calling by URL prints %s, want the number of the token that the third party got", got)
	}
	if got := e.bash(t, steps[4]); !strings.Contains(got, "invalid_grant") {
		t.Errorf("breaking the grant prints %s, want invalid_grant", got)
	}
	webhooks := "http://127.0.0.1:" + e.ports["8089"] + "/webhooks"
	eventually(t, "the webhook", func() error {
		// A call triggers the refresh as soon as it is due.
		e.bash(t, steps[2])
		got, err := get(webhooks, http.Header{})
		if err == nil && (!strings.Contains(string(got.body), failedEvent) || !strings.Contains(string(got.body), `"verified":true`)) {
			err = errors.New(got.String())
		}
		return err
	})
}

// commandsInComment returns the indented commands in the comment at the top of a Caddyfile.
// Consecutive lines are one command.
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
