package tests

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
)

// badRows are rows that cannot be imported, as text or as changes to a good row.
var badRows = []struct {
	name     string
	row      string         // in place of a row
	change   map[string]any // members of a good row; nil removes one
	status   int
	typeName string
}{
	{"no object", `"` + brokertest.AccessCanary + `"`, nil, 400, "RequestValidationError"},
	{"null", `null`, nil, 400, "RequestValidationError"},
	{"a list", `[]`, nil, 400, "RequestValidationError"},
	{"a repeated member", `{"consumer_id": "x", "consumer_id": "x"}`, nil, 400, "RequestValidationError"},
	{"half of a surrogate pair", `{"consumer_id": "x", "unified_api": "crm", "service_id": "acme", "metadata": {"a": "\ud800"}}`, nil, 400, "RequestValidationError"},
	{"no consumer", "", map[string]any{"consumer_id": nil}, 422, "InvalidStateError"},
	{"a long consumer", "", map[string]any{"consumer_id": strings.Repeat("x", 256)}, 422, "InvalidStateError"},
	{"a control character in the consumer", "", map[string]any{"consumer_id": "a\x01"}, 422, "InvalidStateError"},
	{"a consumer of another type", "", map[string]any{"consumer_id": 7}, 400, "RequestValidationError"},
	{"no unified API", "", map[string]any{"unified_api": nil}, 422, "InvalidStateError"},
	{"no service", "", map[string]any{"service_id": ""}, 422, "InvalidStateError"},
	{"an unknown connector", "", map[string]any{"service_id": "nobody"}, 404, "ConnectorNotFoundError"},
	{"a connector that none can be", "", map[string]any{"unified_api": "CRM"}, 404, "ConnectorNotFoundError"},
	{"another application", "", map[string]any{"app": "other"}, 422, "InvalidStateError"},
	{"an unknown member", "", map[string]any{"tokens": map[string]any{}}, 400, "RequestValidationError"},
	{"an unknown credential", "", map[string]any{"credentials": map[string]any{"accessToken": brokertest.AccessCanary}}, 400, "RequestValidationError"},
	{"a token of another type", "", map[string]any{"credentials": map[string]any{"access_token": []string{brokertest.AccessCanary}}}, 400, "RequestValidationError"},
	{"a line break in a token", "", map[string]any{"credentials": map[string]any{"access_token": brokertest.AccessCanary + "\n", "refresh_token": "r\nr"}}, 422, "InvalidStateError"},
	{"the word null", "", map[string]any{"credentials": map[string]any{"access_token": "a", "refresh_token": "null"}}, 422, "InvalidStateError"},
	{"a negative lifetime", "", map[string]any{"credentials": map[string]any{"access_token": "a", "refresh_token": "r", "expires_in": -1}}, 422, "InvalidStateError"},
	{"no time", "", map[string]any{"credentials": map[string]any{"access_token": "a", "expires_at": brokertest.RefreshCanary}}, 400, "RequestValidationError"},
	{"no refresh token", "", map[string]any{"credentials": map[string]any{"access_token": brokertest.AccessCanary}}, 422, "InvalidStateError"},
	{"no tokens", "", map[string]any{"credentials": nil}, 422, "InvalidStateError"},
	{"no API key", "", map[string]any{"service_id": "keyed", "credentials": nil}, 422, "InvalidStateError"},
	{"tokens for an API key", "", map[string]any{"service_id": "keyed"}, 422, "InvalidStateError"},
	{"settings that are none", "", map[string]any{"settings": brokertest.SettingCanary}, 400, "RequestValidationError"},
	{"metadata that are none", "", map[string]any{"metadata": []any{}}, 400, "RequestValidationError"},
	{"deep settings", "", map[string]any{"settings": map[string]any{"a": json.RawMessage(strings.Repeat("[", 200) + strings.Repeat("]", 200))}}, 400, "RequestValidationError"},
	{"large metadata", "", map[string]any{"metadata": map[string]any{"a": strings.Repeat("x", 300<<10)}}, 422, "InvalidStateError"},
	{"a large row", "", map[string]any{"metadata": map[string]any{"a": strings.Repeat("x", 1<<20)}}, 413, "RequestEntityTooLargeError"},
}

// batchRow returns a row with a valid token, changed.
func batchRow(t *testing.T, n int, change map[string]any) string {
	t.Helper()
	row := map[string]any{
		"consumer_id": "row-" + strconv.Itoa(n), "unified_api": "crm", "service_id": "acme",
		"credentials": map[string]any{
			"access_token": fmt.Sprintf("%s-%d", brokertest.AccessCanary, n), "refresh_token": fmt.Sprintf("%s-%d", brokertest.RefreshCanary, n),
			"expires_at": "2099-01-01T00:00:00Z",
		},
	}
	maps.Copy(row, change)
	for name, value := range change {
		if value == nil {
			delete(row, name)
		}
	}
	text, err := json.Marshal(row)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A rowAnswer is the result of a row.
type rowAnswer struct {
	Row             int
	StatusCode      int `json:"status_code"`
	Result, Refresh string
	Health          string
	Error           struct {
		TypeName string `json:"type_name"`
		Message  string
	}
}

// postRows sends rows and returns their results.
func (p *process) postRows(t *testing.T, path, body string, more http.Header) []rowAnswer {
	t.Helper()
	header := p.deployment.apiHeader("")
	header.Del("X-Apideck-Consumer-Id")
	maps.Copy(header, more)
	got := wantNoCanaryInAnswer(t, "the results", send(t, http.MethodPost, p.apiURL(path), header, body))
	if got.status != http.StatusOK {
		t.Fatalf("%s = %v, want 200", path, got)
	}
	var answered struct{ Data []rowAnswer }
	got.decode(t, &answered)
	return answered.Data
}

// importRows imports rows, and sends those again for which there was no time.
func (p *process) importRows(t *testing.T, rows []string, more http.Header) []rowAnswer {
	t.Helper()
	results, left := make([]rowAnswer, len(rows)), make([]int, len(rows))
	for n := range left {
		left[n] = n
	}
	for range 10 {
		var batch []string
		for _, n := range left {
			batch = append(batch, rows[n])
		}
		var later []int
		for i, row := range p.postRows(t, "/vault/connections/import", `{"connections": [`+strings.Join(batch, ",")+`]}`, more) {
			n := left[i]
			if row.Row != i {
				t.Fatalf("result %d is of row %d", i, row.Row)
			}
			if row.Row = n; row.StatusCode == http.StatusServiceUnavailable {
				later = append(later, n)
			}
			results[n] = row
		}
		if left = later; len(left) == 0 {
			break
		}
	}
	return results
}

// revisions returns the versions of the connections in Vault or, of the embedded store, when
// each connection was last changed.
func (p *process) revisions(t *testing.T, consumers ...string) map[string]string {
	t.Helper()
	revisions := make(map[string]string)
	if p.deployment.isShared {
		server := vaulttest.Shared(t)
		for _, path := range listVault(t, server, "secret/metadata", p.deployment.vaultPrefix()) {
			if !strings.Contains(path, application) {
				continue // the broker's own
			}
			versions, err := server.Client().KVv2("secret").GetVersionsAsList(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			revisions[path] = strconv.Itoa(versions[len(versions)-1].Version)
		}
		return revisions
	}
	for _, consumer := range consumers {
		revisions[consumer] = string(p.get(t, acme, consumer).body)
	}
	return revisions
}

// A batch of 1000 rows, with 3 % bad ones: a dry run says what happens, and changes nothing;
// then it happens.
func TestBatchOfAThousandRows(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		rows := make([]string, 1000)
		wanted := make([]string, len(rows))
		for n := range rows {
			rows[n], wanted[n] = batchRow(t, n, nil), "200 created none"
		}
		for i, bad := range badRows {
			n := i*33 + 7
			if rows[n] = bad.row; bad.row == "" {
				rows[n] = batchRow(t, n, bad.change)
			}
			wanted[n] = fmt.Sprint(bad.status, " ", bad.typeName)
		}
		for n, outcome := range map[int]string{0: "kept", 1: "updated"} { // these are there already
			access := map[string]any{"access_token": fmt.Sprint(brokertest.AccessCanary, "-", n), "refresh_token": fmt.Sprint(brokertest.RefreshCanary, "-", n), "expires_at": "2099-01-01T00:00:00Z"}
			if outcome == "updated" {
				access["refresh_token"] = "an-earlier-one"
			}
			p.importRows(t, []string{batchRow(t, n, map[string]any{"credentials": access})}, nil)
			wanted[n] = "200 " + outcome + " none"
		}
		consumers := []string{"row-0", "row-1", "row-2"}

		before := p.revisions(t, consumers...)
		tried := p.importRows(t, rows, http.Header{"X-Token-Broker-Dry-Run": {"true"}})
		wantRows(t, "dry run", tried, wanted)
		if after := p.revisions(t, consumers...); !maps.Equal(before, after) {
			t.Errorf("after the dry run there are %v\nwant, as before, %v", after, before)
		}
		if got := p.get(t, acme, "row-2"); got.status != http.StatusNotFound {
			t.Errorf("after the dry run: %v, want 404", got)
		}

		wantRows(t, "import", p.importRows(t, rows, nil), wanted)
		for n := range rows {
			if strings.HasPrefix(wanted[n], "200 ") {
				wanted[n] = "200 kept none"
			}
		}
		wantRows(t, "import again", p.importRows(t, rows, nil), wanted)
		if got := len(d.provider.TokenRequests("row-2")); got != 0 {
			t.Errorf("%d token requests for a valid token", got)
		}
		p.stop(t)
		wantNoCanary(t, "the log", []byte(p.log.String()))
		wantNoCanaryInFiles(t, d.dir)
	})
}

func wantRows(t *testing.T, what string, got []rowAnswer, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: got %d results, want %d", what, len(got), len(want))
	}
	wrong := 0
	for n, row := range got {
		text := fmt.Sprint(row.StatusCode, " ", row.Error.TypeName)
		if row.Error.TypeName == "" {
			text = fmt.Sprint(row.StatusCode, " ", row.Result, " ", row.Refresh)
		}
		if row.Row != n || text != want[n] {
			if wrong++; wrong < 10 {
				t.Errorf("%s: row %d: got %+v, want %s", what, n, row, want[n])
			}
		}
	}
}

// Each thing that the command says of a file, with a probe of each connection.
func TestVerifyComparesAFileWithTheStore(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		d.broker = "connector crm/acme {\n probe_path /v1/me?a=b\n}"
		p := d.start(t)
		working := d.provider.Login(t, "working", 0)
		credentials := func(access, refresh string) map[string]any {
			return map[string]any{"credentials": map[string]any{"access_token": access, "refresh_token": refresh, "expires_at": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)}}
		}
		rows := []string{
			batchRow(t, 0, credentials(working.AccessToken, working.RefreshToken)),
			batchRow(t, 1, nil),
			batchRow(t, 2, map[string]any{"service_id": "keyed", "credentials": nil, "settings": map[string]any{"api_key": brokertest.SettingCanary}}),
		}
		for _, row := range p.importRows(t, rows, nil) {
			if row.StatusCode != http.StatusOK {
				t.Fatalf("got %+v", row)
			}
		}
		same, different := filepath.Join(d.dir, "same.ndjson"), filepath.Join(d.dir, "different.ndjson")
		writeFile(t, same, strings.Join(rows, "\n")+"\n")
		writeFile(t, different, rows[0]+"\n"+batchRow(t, 1, credentials(brokertest.AccessCanary, brokertest.RefreshCanary))+"\n"+batchRow(t, 3, nil)+"\n{\n")

		verify := func(args ...string) (string, error) {
			all := append([]string{"verify", "--to", p.apiURL(""), "--app", application, "--key-file", filepath.Join(d.dir, "api-key")}, args...)
			out, err := d.command(all...).CombinedOutput()
			wantNoCanary(t, "the output", out)
			return string(out), err
		}
		out, err := verify(same)
		if err != nil || !strings.Contains(out, "3 rows: 3 same, 0 different, 0 missing\nconnections: 3 healthy, 0 parked (needs_auth), 0 in standby\n") {
			t.Errorf("got %v\n%s", err, out)
		}
		results := filepath.Join(d.dir, "results")
		out, err = verify("--probe", "--results", results, different)
		if err == nil || !strings.Contains(out, "4 rows: 1 same, 1 different, 1 missing, 1 unreadable\n") || !strings.Contains(out, "probes: 1 2xx, 1 4xx\n") {
			t.Errorf("got %v\n%s", err, out)
		}
		if call, ok := d.provider.LastCall("/v1/me"); !ok || call.Query != "a=b" {
			t.Errorf("downstream got %+v, want the probe", call)
		}
		text, err := os.ReadFile(results)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		slices.Sort(lines)
		if len(lines) != 3 || !strings.Contains(lines[0], `"row-1"`) || !strings.Contains(lines[1], `"missing"`) || !strings.Contains(lines[2], `"unreadable"`) {
			t.Errorf("the results are\n%s", text)
		}
		if info, err := os.Stat(results); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the results have mode %v, %v, want 0600", info.Mode(), err)
		}
		p.stop(t)
		wantNoCanary(t, "the results", text)
		wantNoCanary(t, "the log", []byte(p.log.String()))
	})
}
