package importing

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/client"
)

// A fakeBroker answers batches as the broker does.
type fakeBroker struct {
	mu      sync.Mutex
	stored  map[string]string // access tokens by connection
	stores  map[string]int    // how often each was stored
	batches int
	dryRun  bool

	// before decides a whole request; nil goes on.
	before func(request int) error
	// row decides the answer to one row; "" stores it.
	row func(row *transfer.Row) string
}

func (f *fakeBroker) do(_ context.Context, _, path string, body, into any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.batches++
	if f.before != nil {
		if err := f.before(f.batches); err != nil {
			return err
		}
	}
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	var request struct {
		Connections []json.RawMessage `json:"connections"`
	}
	if err := json.Unmarshal(text, &request); err != nil || path != importPath || len(request.Connections) > 1000 {
		return &client.Error{Status: http.StatusBadRequest, Message: "no batch"}
	}
	var answers []string
	for i, text := range request.Connections {
		answers = append(answers, fmt.Sprintf(`{"row":%d,%s}`, i, f.answer(text)))
	}
	return json.Unmarshal([]byte(`{"data":[`+strings.Join(answers, ",")+`]}`), into)
}

func (f *fakeBroker) answer(text []byte) string {
	row, err := transfer.ParseRow(text)
	if err != nil {
		return fmt.Sprintf(`"status_code":400,"error":{"type_name":"RequestValidationError","message":%q}`, err)
	}
	if f.row != nil {
		if answer := f.row(row); answer != "" {
			return answer
		}
	}
	key, token := row.Key().String(), ""
	if row.Credentials != nil {
		token = row.Credentials.AccessToken.Reveal()
	}
	result := "updated"
	if before, known := f.stored[key]; !known {
		result = "created"
	} else if before == token {
		result = "kept"
	}
	if !f.dryRun {
		if f.stored == nil {
			f.stored, f.stores = make(map[string]string), make(map[string]int)
		}
		f.stored[key] = token
		if result != "kept" {
			f.stores[key]++
		}
	}
	return fmt.Sprintf(`"status_code":200,"result":%q,"refresh":"queued"`, result)
}

// writeRows writes a file of canonical rows.
func writeRows(t *testing.T, rows ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rows.ndjson")
	if err := os.WriteFile(path, []byte(strings.Join(rows, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func row(number int) string { return rowWith(number, fmt.Sprintf("at-%d", number)) }

func rowWith(number int, token string) string {
	return fmt.Sprintf(`{"consumer_id":"c%d","unified_api":"crm","service_id":"hubspot","credentials":{"access_token":%q,"refresh_token":"rt-%d"}}`,
		number, token, number)
}

func rows(n int) []string {
	texts := make([]string, 0, n)
	for i := range n {
		texts = append(texts, row(i+1))
	}
	return texts
}

// run imports, and returns what it wrote.
func run(ctx context.Context, t *testing.T, f *fakeBroker, o Options) (out, errs string, err error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	o.Out, o.Err, o.Target, o.Application = &stdout, &stderr, "http://broker", "my-app"
	if f != nil {
		f.dryRun, o.Do = o.DryRun, f.do
	}
	err = Run(ctx, o)
	for _, text := range []string{stdout.String(), stderr.String(), fmt.Sprint(err)} {
		if strings.Contains(text, "at-") || strings.Contains(text, "rt-") || strings.Contains(text, "SECRET") {
			t.Errorf("a token is printed: %s", text)
		}
	}
	return stdout.String(), stderr.String(), err
}

func mustContain(t *testing.T, text string, wants ...string) {
	t.Helper()
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == ' ' }), " ")
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("got\n%s\nwithout %q", text, want)
		}
	}
}
