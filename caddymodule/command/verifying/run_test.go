package verifying

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/client"
)

// A fakeBroker has connections, by consumer, with these access tokens.
type fakeBroker struct {
	t        *testing.T
	tokens   map[string]string
	putOff   int // rows to put off in each of the first requests
	mu       sync.Mutex
	requests int            // guarded by mu
	salts    map[string]int // guarded by mu
	probed   []string       // guarded by mu
}

func (f *fakeBroker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.URL.Path == "/proxy" {
		f.probed = append(f.probed, r.Header.Get("X-Apideck-Consumer-Id")+" "+r.Header.Get("X-Apideck-Service-Id")+" "+r.Header.Get("X-Apideck-Downstream-Url"))
		if r.Header.Get("X-Apideck-Consumer-Id") == "c1" {
			w.WriteHeader(http.StatusForbidden)
		}
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		f.t.Error(err)
	}
	brokertest.NoCanary(f.t, "a request", body)
	var request struct {
		Salt        string
		Connections []names
	}
	if err := json.Unmarshal(body, &request); err != nil || r.URL.Path != "/vault/connections/verify" || len(request.Connections) > 1000 {
		f.t.Errorf("got %s with %d rows, %v", r.URL.Path, len(request.Connections), err)
	}
	f.requests++
	f.salts[request.Salt]++
	key, err := hex.DecodeString(request.Salt)
	if err != nil || len(key) < 16 {
		f.t.Errorf("got salt %q, %v", request.Salt, err)
	}
	var rows []map[string]any
	for i, row := range request.Connections {
		answer := map[string]any{"row": i, "status_code": 200, "result": "missing"}
		token, ok := f.tokens[row.ConsumerID]
		switch {
		case i < f.putOff && f.requests <= 2:
			answer = map[string]any{"row": i, "status_code": 503, "error": map[string]any{"type_name": "ServiceUnavailableError", "message": "later"}}
		case row.ServiceID == "nobody":
			answer = map[string]any{"row": i, "status_code": 404, "error": map[string]any{"type_name": "ConnectorNotFoundError", "message": "no such connector"}}
		case ok:
			answer["result"], answer["state"], answer["health"] = "different", "callable", "ok"
			if row.AccessToken == "" || row.AccessToken == hex.EncodeToString(secret.New(token).MAC(key)) {
				answer["result"] = "same"
			}
			if row.ConsumerID == "c2" {
				answer["health"], answer["standby"] = "needs_auth", true
			}
			if row.ServiceID == "acme" {
				answer["probe_url"] = "https://api.acme.test/me"
			}
		}
		rows = append(rows, answer)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"data": rows})
}

// verify verifies a file against the broker and returns what is printed.
func (f *fakeBroker) verify(o Options, file string) (string, error) {
	f.t.Helper()
	f.salts = make(map[string]int)
	server := httptest.NewServer(f)
	defer server.Close()
	c, err := client.New(server.URL, "my-app", secret.New("key"), false)
	if err != nil {
		f.t.Fatal(err)
	}
	var out bytes.Buffer
	o.Client, o.Application, o.Out, o.Rows = c, "my-app", &out, transfer.NewReader(strings.NewReader(file))
	err = Run(f.t.Context(), o)
	brokertest.NoCanary(f.t, "the output", out.Bytes())
	return out.String(), err
}

func line(consumer, service, token string) string {
	return fmt.Sprintf(`{"consumer_id":%q,"unified_api":"crm","service_id":%q,"credentials":{"access_token":%q}}`, consumer, service, token) + "\n"
}

func TestEachRowIsCountedAndNotedUnlessItIsTheSame(t *testing.T) {
	t.Parallel()
	f := &fakeBroker{t: t, tokens: map[string]string{"c0": brokertest.AccessCanary, "c1": "other", "c2": brokertest.AccessCanary, "c3": "x"}}
	results := filepath.Join(t.TempDir(), "results.ndjson")
	if err := os.WriteFile(results, []byte("of an earlier run\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := line("c0", "acme", brokertest.AccessCanary) + line("c1", "acme", brokertest.AccessCanary) + line("c2", "keyed", brokertest.AccessCanary) +
		`{"consumer_id":"c3","unified_api":"crm","service_id":"keyed","settings":{"api_key":"` + brokertest.SettingCanary + `"}}` + "\n" +
		line("gone", "acme", "a") + line("c0", "nobody", "a") + `{"consumer_id": "` + brokertest.AccessCanary + "\n" +
		strings.Replace(line("c0", "acme", "a"), "{", `{"app":"other",`, 1)
	out, err := f.verify(Options{Results: results, Probe: true, ProbeRate: 1000}, file)
	want := "8 rows: 3 same, 1 different, 1 missing, 2 failed, 1 unreadable\n" +
		"connections: 3 healthy, 1 parked (needs_auth), 1 in standby\n" +
		"probes: 1 2xx, 1 4xx, 2 no probe_path\n" +
		"unreadable: 1: is not valid JSON: it ends too early (line 7)\n"
	if out != want || err == nil || !strings.HasPrefix(err.Error(), "5 of 8 rows") {
		t.Errorf("got\n%s%v, want\n%s", out, err, want)
	}
	text, err := os.ReadFile(results)
	if err != nil {
		t.Fatal(err)
	}
	brokertest.NoCanary(t, "the results", text)
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	slices.Sort(lines)
	wantLines := []string{
		`{"line":2,"consumer_id":"c1","unified_api":"crm","service_id":"acme","result":"different","state":"callable","health":"ok","probe_status":403}`,
		`{"line":5,"consumer_id":"gone","unified_api":"crm","service_id":"acme","result":"missing"}`,
		`{"line":6,"consumer_id":"c0","unified_api":"crm","service_id":"nobody","result":"failed","error":"ConnectorNotFoundError: no such connector"}`,
		`{"line":7,"result":"unreadable","error":"is not valid JSON: it ends too early"}`,
		`{"line":8,"consumer_id":"c0","unified_api":"crm","service_id":"acme","result":"failed","error":"the row is of the application other, not of --app"}`,
	}
	if !slices.Equal(lines, wantLines) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(wantLines, "\n"))
	}
	if info, err := os.Stat(results); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the results have mode %v, %v, want 0600", info.Mode(), err)
	}
	slices.Sort(f.probed)
	if want := []string{"c0 acme https://api.acme.test/me", "c1 acme https://api.acme.test/me"}; !slices.Equal(f.probed, want) {
		t.Errorf("tried %q, want %q", f.probed, want)
	}
}

func TestAFileThatIsStoredIsASuccess(t *testing.T) {
	t.Parallel()
	f := &fakeBroker{t: t, tokens: make(map[string]string), putOff: 7}
	var file strings.Builder
	for i := range 1200 {
		consumer := fmt.Sprint("many", i)
		f.tokens[consumer] = "t"
		file.WriteString(line(consumer, "acme", "t"))
	}
	out, err := f.verify(Options{}, file.String())
	if err != nil || !strings.HasPrefix(out, "1200 rows: 1200 same, 0 different, 0 missing\n") || strings.Contains(out, "probes") {
		t.Errorf("got %s, %v", out, err)
	}
	if salts := slices.Collect(maps.Keys(f.salts)); len(salts) != 1 || f.requests < 5 {
		t.Errorf("got %d requests with the salts %v, want one salt for each run, and the rows that were put off again", f.requests, salts)
	}
	first := f.salts
	if _, err := f.verify(Options{}, line("many0", "acme", "t")); err != nil || maps.Equal(first, f.salts) {
		t.Errorf("got %v, and the salt of the run before", err)
	}
}

func TestAnEmptyFileIsAnError(t *testing.T) {
	t.Parallel()
	f := &fakeBroker{t: t}
	if _, err := f.verify(Options{}, "\n"); err == nil || err.Error() != "the file has no rows" {
		t.Errorf("got %v", err)
	}
}

func TestABrokerThatRefusesEndsTheVerification(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"type_name": "UnauthorizedError", "message": "Unauthorized Request"}`))
	}))
	defer server.Close()
	c, err := client.New(server.URL, "my-app", secret.New("key"), false)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	err = Run(t.Context(), Options{Client: c, Out: &out, Rows: transfer.NewReader(strings.NewReader(strings.Repeat(line("a", "acme", "t"), 5000)))})
	if refused, ok := errors.AsType[*client.Error](err); !ok || refused.Status != http.StatusUnauthorized {
		t.Errorf("got %v, want the refusal", err)
	}
	if out.Len() > 0 {
		t.Errorf("nothing was compared, and it prints %s", &out)
	}
}

func TestReasonsOfUnreadableRowsAreCounted(t *testing.T) {
	t.Parallel()
	f := &fakeBroker{t: t, tokens: map[string]string{"a": "t"}}
	bad := strings.Repeat("consumer,token\n", 7)
	out, err := f.verify(Options{}, line("a", "acme", "t")+bad)
	if err == nil || !strings.Contains(out, "unreadable: 7: ") || !strings.Contains(out, "(line 2, 3, 4, 5, 6, ...)\n") || !strings.HasPrefix(out, "8 rows: 1 same") {
		t.Errorf("got %s, %v", out, err)
	}
	_, err = f.verify(Options{}, bad)
	if err == nil || err.Error() != "the file is not NDJSON of canonical rows: make it with `token-broker import --rows-to`" {
		t.Errorf("a CSV: got %v", err)
	}
	var many tally
	many.results = map[string]int{resultUnreadable: maxReasons + 2}
	for i := range maxReasons + 2 {
		many.addReason(&item{line: i, Error: fmt.Sprint("reason ", i)})
	}
	var reasons strings.Builder
	many.printReasons(&reasons)
	if !strings.HasSuffix(reasons.String(), "reason 4 (line 4)\nunreadable: 2 for other reasons\n") {
		t.Errorf("got %s", &reasons)
	}
}
