package caddymodule

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

const exampleFile = "../Caddyfile.example"

func TestExampleIsFormatted(t *testing.T) {
	t.Parallel()
	example, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	_, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(example, map[string]any{"filename": exampleFile})
	if err != nil {
		t.Fatal(err)
	}
	for _, warning := range warnings {
		t.Error(warning)
	}
}

// TestExampleWorks does what the example says to do, on other ports.
func TestExampleWorks(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("VAULT_ADDR", "")
	b, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	example := strings.Replace(string(b), "{\n", "{\n\tadmin off\n\tpersist_config off\n", 1)
	url := make(map[string]string)
	for _, port := range []string{"8080", "8081", "8089"} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		_, free, _ := net.SplitHostPort(listener.Addr().String())
		example = strings.ReplaceAll(example, ":"+port, ":"+free)
		url[port] = "http://127.0.0.1:" + free
		listener.Close()
	}
	caddytest.RunAsItIs(t, example)

	status, body := get(t, "POST", url["8080"]+"/vault/connections/crm/sandbox/import",
		`{"credentials": {"access_token": "old", "refresh_token": "sandbox-rt-1", "issued_at": "2026-01-02T15:04:05Z", "expires_in": 60}}`,
		"Authorization", "Bearer sandbox-key", "X-Apideck-App-Id", "sandbox-app", "X-Apideck-Consumer-Id", "jane")
	if status != http.StatusOK || !strings.Contains(body, `"id":"crm+sandbox"`) {
		t.Fatalf("import: got status %d: %s", status, body)
	}
	for range 2 {
		status, body = get(t, "GET", url["8081"]+"/api/hello", "", "X-Apideck-Consumer-Id", "jane")
		if status != http.StatusOK || !strings.Contains(body, `"path":"/api/hello"`) || !strings.Contains(body, `"token_number":1`) {
			t.Errorf("call: got status %d: %s", status, body)
		}
	}
	status, body = get(t, "GET", url["8080"]+"/proxy", "", "Authorization", "Bearer sandbox-key", "X-Apideck-App-Id", "sandbox-app",
		"X-Apideck-Consumer-Id", "jane", "X-Apideck-Downstream-Url", url["8089"]+"/api/hello")
	if status != http.StatusOK || !strings.Contains(body, `"path":"/api/hello"`) {
		t.Errorf("call by URL: got status %d: %s", status, body)
	}
	if status, body = get(t, "GET", url["8089"]+"/webhooks", ""); status != http.StatusOK || !strings.Contains(body, `{"webhooks":[]}`) {
		t.Errorf("webhooks: got status %d: %s", status, body)
	}
}

// get sends a request over the network. header has names and values in turn.
func get(t *testing.T, method, url, body string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(fmt.Errorf("%s: %w", url, err))
	}
	return resp.StatusCode, string(b)
}
