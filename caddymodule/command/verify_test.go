package command

import (
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/client"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/verifying"
)

func TestVerifyReadsTheFile(t *testing.T) { //nolint:paralleltest // it sets a variable
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer key" {
			t.Errorf("got the key %q", r.Header.Get("Authorization"))
		}
		_, _ = w.Write([]byte(`{"data": [{"row": 0, "status_code": 200, "result": "same", "health": "ok"}]}`))
	}))
	defer server.Close()
	t.Setenv(client.KeyVariable, "key")
	file := filepath.Join(t.TempDir(), "rows.ndjson")
	if err := os.WriteFile(file, []byte(`{"consumer_id":"jane","unified_api":"crm","service_id":"acme"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	results := ""
	run := func(rate int, args ...string) (string, error) {
		flags := flag.NewFlagSet("verify", flag.ContinueOnError)
		client.AddFlags(flags)
		if err := flags.Parse([]string{"--to", server.URL, "--app", "my-app"}); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		err := verify(t.Context(), verifying.Options{Application: "my-app", ProbeRate: rate, Out: &out, Results: results},
			func(name string) string { return flags.Lookup(name).Value.String() }, args)
		return out.String(), err
	}
	if out, err := run(5, file); err != nil || !strings.HasPrefix(out, "1 rows: 1 same, 0 different, 0 missing\nconnections: 1 healthy") {
		t.Errorf("got %s, %v", out, err)
	}
	for _, args := range [][]string{{}, {file, file}, {file + "x"}} {
		if _, err := run(5, args...); err == nil {
			t.Errorf("%q: got no error", args)
		}
	}
	if _, err := run(0, file); err == nil {
		t.Error("a rate of 0 is accepted")
	}
	results = filepath.Join(filepath.Dir(file), ".", "link")
	if err := os.Link(file, results); err != nil {
		results = file
	}
	_, err := run(5, file)
	if text, readErr := os.ReadFile(file); err == nil || readErr != nil || len(text) == 0 {
		t.Errorf("the file is replaced by its results: %v, %v", err, readErr)
	}
}
