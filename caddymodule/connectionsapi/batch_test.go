package connectionsapi

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

// batchRow returns a row that imports tokens which are valid for an hour.
func batchRow(consumer, access, refresh string) string {
	return fmt.Sprintf(`{"consumer_id": %q, "unified_api": "crm", "service_id": "acme", "credentials": {"access_token": %q, "refresh_token": %q, "expires_at": %q}}`,
		consumer, access, refresh, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
}

func batchOf(rows ...string) string { return `{"connections": [` + strings.Join(rows, ",") + `]}` }

// postBatch sends a request for the application, without a consumer.
func postBatch(t *testing.T, api http.Handler, path, body string, header ...string) []map[string]any {
	t.Helper()
	data := dataOf[[]any](t, caddytest.Do(t, api, "POST", vault+path, body, append(as("")[:4], header...)...))
	rows := make([]map[string]any, len(data))
	for i, row := range data {
		rows[i] = row.(map[string]any)
		if rows[i]["row"] != float64(i) {
			t.Errorf("result %d is of row %v", i, rows[i]["row"])
		}
	}
	return rows
}

func TestBatchAnswersForEachRow(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	body := batchOf(
		batchRow("jane", "a1", "r1"),
		`{"consumer_id": "keyed", "unified_api": "hris", "service_id": "keyed", "settings": {"region": "eu"}}`,
		`{"consumer_id": "jane", "unified_api": "crm", "service_id": "nobody"}`,
		`{"consumer_id": "jane", "unified_api": "crm", "service_id": "acme", "credentials": {"accessToken": "`+brokertest.AccessCanary+`"}}`,
		`{"consumer_id": "ms", "unified_api": "crm", "service_id": "acme", "credentials": {"access_token": "a", "refresh_token": "r", "issued_at": "2999-01-02T15:04:05Z", "expires_in": 3600000}}`,
		batchRow("jane", "a1", "r1"),
		`{"consumer_id": "long", "unified_api": "crm", "service_id": "acme", "metadata": {"a": "`+strings.Repeat("x", apideck.MaxBody)+`"}}`,
	)
	rows := postBatch(t, api, "connections/import", body)
	for i, want := range []string{
		"200 created none", "422 InvalidStateError connections[1].settings.api_key", "404 ConnectorNotFoundError no such connector",
		`400 RequestValidationError "connections[3].credentials.accessToken" is not a known member`,
		"200 created none", "200 kept none", "413 RequestEntityTooLargeError The row is too large",
	} {
		row := rows[i]
		got := fmt.Sprint(row["status_code"], " ", row["result"], " ", row["refresh"])
		if e, ok := row["error"].(map[string]any); ok {
			got = fmt.Sprint(row["status_code"], " ", e["type_name"], " ", e["message"])
			if row["result"] != nil || row["refresh"] != nil || e["status_code"] != row["status_code"] || e["detail"] == nil || e["ref"] == nil || e["error"] == nil {
				t.Errorf("row %d: got %v", i, row)
			}
		}
		if !strings.HasPrefix(got, want) {
			t.Errorf("row %d: got %s, want %s", i, got, want)
		}
		if warns := row["warning"] != nil; warns != (i == 4) {
			t.Errorf("row %d: got the warning %v", i, row["warning"])
		}
		brokertest.NoCanary(t, "the row", fmt.Append(nil, row))
	}
	if got := dataOf[map[string]any](t, caddytest.Do(t, api, "GET", vault+"connections/crm/acme", "", as("jane")...)); got["state"] != "callable" {
		t.Errorf("got %v", got)
	}
}

func TestDryRunAnswersLikeTheImport(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	const path = vault + "connections/crm/acme/import"
	dry := append(as("jane"), "X-Token-Broker-Dry-Run", "true")
	for _, step := range []struct{ body, outcome, effect string }{
		{caddytest.TokenBody("a1"), "stored", "map[refresh:none result:created]"},
		{caddytest.TokenBody("a1"), "kept", "map[refresh:none result:kept]"},
		{`{"credentials": {"access_token": "a2", "refresh_token": "r2", "expires_in": 3600000}, "metadata": {"plan": "gold"}}`, "stored", "map[refresh:queued result:updated]"},
	} {
		tried := caddytest.Do(t, api, "POST", path, step.body, dry...)
		triedBody := caddytest.Decode(t, tried)
		again := caddytest.Decode(t, caddytest.Do(t, api, "POST", path, step.body, dry...))
		if got := fmt.Sprint(triedBody["dry_run"]); tried.StatusCode != http.StatusOK || got != step.effect || got != fmt.Sprint(again["dry_run"]) {
			t.Errorf("%s: got status %d with %s and then %v, want %s", step.body, tried.StatusCode, got, again["dry_run"], step.effect)
		}
		// The time of the test may pass a millisecond.
		stored := caddytest.Do(t, api, "POST", path, step.body, append(as("jane"), "X-Token-Broker-Dry-Run", "false")...)
		storedBody := caddytest.Decode(t, stored)
		for _, name := range []string{"X-Token-Broker-Import", "X-Token-Broker-Warning"} {
			if got, want := tried.Header.Get(name), stored.Header.Get(name); got != want {
				t.Errorf("got %s %q in the dry run, %q in the import", name, got, want)
			}
		}
		if got := stored.Header.Get("X-Token-Broker-Import"); got != step.outcome || storedBody["dry_run"] != nil {
			t.Errorf("got %s, %v", got, storedBody)
		}
		for _, body := range []map[string]any{triedBody, storedBody} {
			delete(body["data"].(map[string]any), "updated_at")
			delete(body["data"].(map[string]any), "created_at")
			delete(body, "dry_run")
		}
		if fmt.Sprint(triedBody) != fmt.Sprint(storedBody) {
			t.Errorf("got\n%v in the dry run, and\n%v in the import", triedBody, storedBody)
		}
	}
}

func TestDryRunOfABatchStoresNothing(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	body := batchOf(batchRow("jane", "a1", "r1"), batchRow("jane", "a2", "r2"), batchRow("jane", "a1", "r1"), `{}`)
	tried := postBatch(t, api, "connections/import", body, "X-Token-Broker-Dry-Run", "true")
	if got := dataOf[[]any](t, caddytest.Do(t, api, "GET", vault+"connections?configured=true", "", as("jane")...)); len(got) != 0 {
		t.Errorf("the consumer has %v, want nothing", got)
	}
	if stored := postBatch(t, api, "connections/import", body); fmt.Sprint(tried) != fmt.Sprint(stored) {
		t.Errorf("got\n%v in the dry run, and\n%v in the import", tried, stored)
	}
}

func TestStandbyHeaderIsForEveryRow(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	// Their tokens have expired, so without standby they would be refreshed.
	expired := func(consumer string) string {
		return strings.Replace(batchRow(consumer, "a", "r-"+consumer), `"expires_at": "2`, `"expires_at": "1`, 1)
	}
	body := batchOf(expired("jane"), "{}", expired("joe"))
	for _, dryRun := range []string{"true", "false"} {
		for i, row := range postBatch(t, api, "connections/import", body, "X-Token-Broker-Standby", "true", "X-Token-Broker-Dry-Run", dryRun) {
			if want := i != 1; (row["result"] == "created" && row["refresh"] == "none") != want {
				t.Errorf("row %d: got %v", i, row)
			}
		}
	}
	const names = `{"consumer_id": "jane", "unified_api": "crm", "service_id": "acme"}, {"consumer_id": "joe", "unified_api": "crm", "service_id": "acme"}`
	for i, row := range postBatch(t, api, "connections/verify", `{"salt": "`+strings.Repeat("00", 16)+`", "connections": [`+names+`]}`) {
		if row["standby"] != true || row["result"] != "same" {
			t.Errorf("row %d: got %v, want standby", i, row)
		}
	}
	for i, row := range postBatch(t, api, "connections/import", body, "X-Token-Broker-Standby", "false") {
		if want := i != 1; (row["result"] == "kept" && row["refresh"] == "queued") != want {
			t.Errorf("activated, row %d: got %v", i, row)
		}
	}
	caddytest.WantError(t, caddytest.Do(t, api, "POST", vault+"connections/import", body, append(as(""), "X-Token-Broker-Standby", "yes")...), 400, "RequestHeadersValidationError")
}

func TestBadDryRunHeaderIsNamed(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	for _, path := range []string{"connections/crm/acme/import", "connections/import"} {
		for _, values := range [][]string{{"yes"}, {"TRUE"}, {"1"}, {" "}, {"true", "true"}} {
			header := as("jane")
			for _, value := range values {
				header = append(header, "X-Token-Broker-Dry-Run", value)
			}
			body := caddytest.WantError(t, caddytest.Do(t, api, "POST", vault+path, caddytest.TokenBody("a"), header...), 400, "RequestHeadersValidationError")
			if message := body["message"].(string); !strings.Contains(message, "x-token-broker-dry-run") {
				t.Errorf("%q: got %s", values, message)
			}
		}
		if resp := caddytest.Do(t, api, "POST", vault+path, `{"x": 1}`, append(as("jane"), "X-Token-Broker-Dry-Run", "")...); resp.StatusCode != http.StatusBadRequest || resp.Header.Get("X-Token-Broker-Error") != "RequestValidationError" {
			t.Errorf("an empty header counts as sent: got status %d", resp.StatusCode)
		}
	}
}

func TestBatchIsLimited(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	for _, path := range []string{"connections/import", "connections/verify"} {
		large := `{"connections": [` + strings.Repeat(" ", apideck.MaxBatchBody) + `]}`
		caddytest.WantError(t, caddytest.Do(t, api, "POST", vault+path, large, as("")[:4]...), 413, "RequestEntityTooLargeError")
		rows := slices.Repeat([]string{`{"consumer_id": "j", "unified_api": "crm", "service_id": "acme"}`}, apideck.MaxRows)
		many := caddytest.WantError(t, caddytest.Do(t, api, "POST", vault+path, batchOf(append(rows, "{}")...), as("")[:4]...), 422, "InvalidStateError")
		if message := many["message"].(string); !strings.HasPrefix(message, "connections has more than 1000 rows") {
			t.Errorf("got %s", message)
		}
	}
}

func TestBatchesInProgressAreLimited(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	send := func(body io.Reader) *http.Response {
		req := httptest.NewRequest(http.MethodPost, vault+"connections/import", body)
		for i := 0; i < 4; i += 2 {
			req.Header.Set(as("")[i], as("")[i+1])
		}
		rec := httptest.NewRecorder()
		api.ServeHTTP(rec, req)
		return rec.Result()
	}
	var slow sync.WaitGroup
	var ends []io.Closer
	for range maxBatches {
		body, end := io.Pipe()
		ends = append(ends, end)
		slow.Go(func() { caddytest.WantError(t, send(body), 400, "RequestValidationError") })
		if _, err := end.Write([]byte("{")); err != nil { // it is being read
			t.Fatal(err)
		}
	}
	row := batchOf(batchRow("jane", "a1", "r1"))
	refused := send(strings.NewReader(row))
	if caddytest.WantError(t, refused, 429, "TooManyRequestsError"); refused.Header.Get("Retry-After") != "1" {
		t.Errorf("got %v, want Retry-After: 1", refused.Header)
	}
	for _, end := range ends {
		_ = end.Close()
	}
	slow.Wait()
	if rows := postBatch(t, api, "connections/import", row); rows[0]["result"] != "created" {
		t.Errorf("after the others: %v", rows)
	}
}

func TestBatchOfAnotherApplicationIsKeptApart(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	postBatch(t, api, "connections/import", batchOf(batchRow("jane", "a1", "r1")))
	own := `{"app": "my-app", "consumer_id": "jane", "unified_api": "crm", "service_id": "acme"}`
	body := `{"salt": "` + strings.Repeat("00", 16) + `", "connections": [` + strings.Replace(own, `"app": "my-app", `, "", 1) + `]}`
	resp := caddytest.Do(t, api, "POST", vault+"connections/verify", body, asOther("")[:4]...)
	if got := fmt.Sprint(dataOf[[]any](t, resp)); !strings.Contains(got, "result:missing") {
		t.Errorf("got %s, want missing", got)
	}
	resp = caddytest.Do(t, api, "POST", vault+"connections/import", batchOf(own), asOther("")[:4]...)
	if got := fmt.Sprint(dataOf[[]any](t, resp)); !strings.Contains(got, "connections[0].app is not the application") {
		t.Errorf("got %s, want a refusal of the row", got)
	}
}

func TestVerificationAnswersForEachRow(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	postBatch(t, api, "connections/import", batchOf(batchRow("jane", brokertest.AccessCanary, brokertest.RefreshCanary)))
	key := []byte("0123456789abcdef")
	row := func(consumer, service, access string) string {
		return fmt.Sprintf(`{"consumer_id": %q, "unified_api": "crm", "service_id": %q, "access_token": "%x"}`, consumer, service, secret.New(access).MAC(key))
	}
	rows := postBatch(t, api, "connections/verify", fmt.Sprintf(`{"salt": "%x", "connections": [%s, %s, %s, %s]}`, key,
		row("jane", "acme", brokertest.AccessCanary), row("jane", "acme", "another"), row("nobody", "acme", "a"), row("jane", "nobody", "a")))
	for i, want := range []string{
		"map[health:ok result:same row:0 state:callable status_code:200]",
		"map[health:ok result:different row:1 state:callable status_code:200]",
		"map[result:missing row:2 status_code:200]",
		"map[error:map[detail:no such connector",
	} {
		if got := fmt.Sprint(rows[i]); !strings.HasPrefix(got, want) {
			t.Errorf("row %d: got %s, want %s", i, got, want)
		}
	}
	brokertest.NoCanary(t, "the answer", fmt.Append(nil, rows))
}
