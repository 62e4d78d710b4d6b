package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/client"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/importing"
)

// importFile runs the command against a broker that creates every row.
func importFile(t *testing.T, c importCommand, file string) (out, errs string, bodies []string, headers http.Header, err error) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies = append(bodies, string(body))
		headers = r.Header
		if r.Header.Get("Authorization") != "Bearer key-1" || r.Header.Get("x-apideck-app-id") != "my-app" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		var request struct {
			Connections []json.RawMessage `json:"connections"`
		}
		if err := json.Unmarshal(body, &request); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		answers := make([]string, 0, len(request.Connections))
		for i := range request.Connections {
			answers = append(answers, fmt.Sprintf(`{"row":%d,"status_code":200,"result":"created","refresh":"none"}`, i))
		}
		_, _ = io.WriteString(w, `{"data":[`+strings.Join(answers, ",")+`]}`)
	}))
	defer server.Close()
	dir := t.TempDir()
	path := filepath.Join(dir, "rows")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	broker, err := client.New(server.URL, c.options.Application, secret.New("key-1"), false)
	if err != nil {
		t.Fatal(err)
	}
	c.options.Out, c.options.Err = &stdout, &stderr
	if c.options.Parallel == 0 {
		c.options.Parallel = 1
	}
	err = c.run(t.Context(), broker, []string{path})
	return stdout.String(), stderr.String(), bodies, headers, err
}

func TestImportSendsWhatTheFlagsDescribe(t *testing.T) {
	t.Parallel()
	c := importCommand{
		mappings: []string{"tok=credentials.access_token", "exp=credentials.expires_at", "svc=connector", "org=-"}, connectors: []string{"HS=crm/hubspot"},
		zone: "America/New_York", options: importing.Options{Application: "my-app", Standby: true, DryRun: true},
	}
	c.options.Convert.Consumer = "org-{org}"
	out, _, bodies, headers, err := importFile(t, c, "org,svc,tok,exp\n7,HS,at-1,2026-01-02 10:04:05\n")
	if err != nil {
		t.Fatal(err)
	}
	want := `{"connections":[{"consumer_id":"org-7","unified_api":"crm","service_id":"hubspot","credentials":{"access_token":"at-1","expires_at":"2026-01-02T15:04:05Z"}}]}`
	if len(bodies) != 1 || bodies[0] != want {
		t.Errorf("got %s, want %s", bodies, want)
	}
	if headers.Get("X-Token-Broker-Standby") != "true" || headers.Get("X-Token-Broker-Dry-Run") != "true" {
		t.Errorf("got headers %v", headers)
	}
	if !strings.Contains(out, "taken for a time in America/New_York") || strings.Contains(out, "at-1") {
		t.Errorf("got %s", out)
	}
}

func TestImportComparesOAuthClientsWithTheConfiguration(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(config, []byte("{\ntoken_broker {\nconnector crm/hubspot {\nclient_id ours\n}\nconnector crm/pipedrive\nconnector crm/close {\nclient_id {env.NOT_SET}\n}\n}\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := importCommand{zone: "UTC", config: config, adapter: "caddyfile", options: importing.Options{Application: "my-app"}}
	c.options.Convert.Format = "oauth2-token"
	out, errs, _, _, err := importFile(t, c, `{"consumer_id":"a","connector":"crm/hubspot","access_token":"at-1","refresh_token":"r","client_id":"theirs"}`+"\n"+
		`{"consumer_id":"a","connector":"crm/pipedrive","access_token":"at-1","refresh_token":"r"}`)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1  the grant belongs to another OAuth client: row 1", "1  the connector is configured without an OAuth client: row 2"} {
		if !strings.Contains(out, want) {
			t.Errorf("got %s\nwithout %q", out, want)
		}
	}
	if !strings.Contains(errs, "{env.NOT_SET} has no value") {
		t.Errorf("got %q", errs)
	}
}

func TestImportNamesTheFlagThatIsWrong(t *testing.T) {
	t.Parallel()
	good := importing.Options{Application: "my-app"}
	for want, c := range map[string]importCommand{
		"--parallel must be 1 or more":   {zone: "UTC", options: importing.Options{Application: "a", Parallel: -1}},
		"--timezone Mars is unknown":     {zone: "Mars", options: good},
		"--map \"x\"":                    {zone: "UTC", options: good, mappings: []string{"x"}},
		"--connector \"x\"":              {zone: "UTC", options: good, connectors: []string{"x"}},
		"refuses the application or its": {zone: "UTC", options: importing.Options{Application: "other"}},
	} {
		if _, _, _, _, err := importFile(t, c, `{"consumer_id":"a","unified_api":"crm","service_id":"x"}`); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := (&importCommand{}).run(t.Context(), nil, nil); err == nil {
		t.Error("no file is accepted")
	}
	if _, ok := caddycmd.Commands()["import"]; !ok {
		t.Error("the subcommand import is not registered")
	}
}
