package importing

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/client"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/sealed"
)

func TestImportSendsEachRowOnce(t *testing.T) {
	t.Parallel()
	f := &fakeBroker{}
	path := writeRows(t, rows(2345)...)
	out, _, err := run(t.Context(), t, f, Options{Path: path, Standby: true})
	if err != nil || len(f.stored) != 2345 {
		t.Errorf("got %v, %d connections", err, len(f.stored))
	}
	for key, n := range f.stores {
		if n != 1 {
			t.Errorf("%s was stored %d times", key, n)
		}
	}
	mustContain(t, out, "for my-app, in standby", "2345 0 0 0 crm/hubspot", "Refreshes queued: 2345")
	if files, _ := filepath.Glob(path + ".*"); files != nil {
		t.Errorf("files are left: %v", files)
	}
}

func TestRefusedRowsAreCountedAndCanBeFedBack(t *testing.T) {
	t.Parallel()
	f := &fakeBroker{row: func(row *transfer.Row) string {
		if row.ConsumerID == "c3" {
			return `"status_code":422,"error":{"type_name":"InvalidStateError","message":"connections[2].settings.tenant is required"}`
		}
		return ""
	}}
	path := writeRows(t, row(1), row(2), row(3), `{"consumer_id":"c4"}`, rowWith(5, "gAAAAAxx"), "{", `{"app":"other","consumer_id":"c7","unified_api":"crm","service_id":"x"}`)
	out, _, err := run(t.Context(), t, f, Options{Path: path})
	if err == nil || err.Error() != "refused rows: 4" {
		t.Errorf("got %v", err)
	}
	mustContain(t, out, "2 0 0 2 crm/hubspot", "0 0 0 2 (no connector)", "1 422 InvalidStateError: settings.tenant is required",
		"1 a field is missing or wrong", "1 the row cannot be read", "1 a value is encrypted", "1 of another application", "The refused rows are in "+path+".refused.ndjson, with their secrets: 4.")
	refused := path + ".refused.ndjson"
	info, err := os.Stat(refused)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("got %v, %v, want a file that only its owner can read", info, err)
	}
	text, err := os.ReadFile(refused)
	if err != nil {
		t.Fatal(err)
	}
	f.row = nil
	mended := strings.NewReplacer("gAAAAAxx", "at-5", `"line":"{"`, `"line":"{}"`).Replace(string(text))
	if err := os.WriteFile(refused, []byte(mended), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _, err = run(t.Context(), t, f, Options{Path: refused})
	if err == nil || len(f.stored) != 4 {
		t.Errorf("got %v, %d connections", err, len(f.stored))
	}
	mustContain(t, out, "2 0 0 0 crm/hubspot", "0 0 0 2 (no connector)")
}

func TestDryRunStoresNothingAndNamesEachRow(t *testing.T) {
	t.Parallel()
	f := &fakeBroker{}
	path := writeRows(t, row(1), row(2), row(1), rowWith(4, strings.Repeat("x", 255)), "{}")
	out, _, err := run(t.Context(), t, f, Options{Path: path, DryRun: true, Verbose: true})
	if err == nil || len(f.stored) != 0 {
		t.Errorf("got %v, %d connections", err, len(f.stored))
	}
	mustContain(t, out, "Dry run", "4 0 0 0 crm/hubspot", "row 1 my-app/c1/crm/hubspot: created, refresh queued\n", "row 5: refused: consumer_id is required",
		"row 3: warning: row 1 is of the same connection", "row 4: warning: credentials.access_token has exactly 255 bytes",
		"1 the connection is in the file more than once: row 3", "1 a token may be truncated: row 4")
	if _, err := os.Stat(path + ".dry-run.ndjson"); err != nil {
		t.Error(err)
	}
}

func TestRowsOfOneConnectionNeverOvertakeEachOther(t *testing.T) {
	t.Parallel()
	var texts []string
	for i := range 3000 {
		texts = append(texts, rowWith(i%700, "at-"+strings.Repeat("x", i/700)))
	}
	f := &fakeBroker{}
	if _, _, err := run(t.Context(), t, f, Options{Path: writeRows(t, texts...), Parallel: 16}); err != nil {
		t.Fatal(err)
	}
	for i := range 700 {
		want := "at-xxx"
		if i < 3000%700 {
			want += "x"
		}
		if got := f.stored[`/c`+strconv.Itoa(i)+"/crm/hubspot"]; got != want {
			t.Fatalf("connection %d has the token %s, want that of its last row, %s", i, got, want)
		}
	}
}

func TestImportWaitsWhenTheBrokerAsks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		put := 0
		f := &fakeBroker{
			before: func(request int) error {
				switch request {
				case 1:
					return &client.Error{Status: http.StatusTooManyRequests}
				case 2:
					return errors.New("connection reset")
				}
				return nil
			},
			row: func(row *transfer.Row) string {
				if row.ConsumerID == "c2" && put < 3 {
					put++
					return `"status_code":503,"error":{"type_name":"StoreError","message":"later"}`
				}
				return ""
			},
		}
		if _, _, err := run(t.Context(), t, f, Options{Path: writeRows(t, rows(3)...)}); err != nil {
			t.Fatal(err)
		}
		if len(f.stored) != 3 || f.batches != 6 || f.stores[`/c1/crm/hubspot`] != 1 {
			t.Errorf("got %d connections after %d requests", len(f.stored), f.batches)
		}
	})
}

func TestImportGivesUpOnRowsThatAreAlwaysPutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeBroker{row: func(row *transfer.Row) string {
			if row.ConsumerID == "c2" {
				return `"status_code":503,"error":{"type_name":"StoreError","message":"the store is unavailable"}`
			}
			return ""
		}}
		out, _, err := run(t.Context(), t, f, Options{Path: writeRows(t, rows(3)...)})
		if err == nil || len(f.stored) != 2 {
			t.Errorf("got %v, %d connections", err, len(f.stored))
		}
		mustContain(t, out, "1 503 StoreError: the store is unavailable")
	})
}

func TestImportStopsWhenTheBrokerIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		away := true
		f := &fakeBroker{before: func(int) error {
			if away {
				return &client.Error{Status: http.StatusServiceUnavailable}
			}
			return nil
		}}
		path := writeRows(t, rows(3)...)
		if _, _, err := run(t.Context(), t, f, Options{Path: path}); err == nil || !strings.Contains(err.Error(), "run the command again to go on") {
			t.Errorf("got %v", err)
		}
		away = false
		if _, _, err := run(t.Context(), t, f, Options{Path: path}); err != nil || len(f.stored) != 3 {
			t.Errorf("got %v, %d connections", err, len(f.stored))
		}
	})
}

func TestAWrongAddressIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	f := &fakeBroker{before: func(int) error { return errors.New("connection refused") }}
	_, _, err := run(t.Context(), t, f, Options{Path: writeRows(t, rows(3)...)})
	if err == nil || !strings.Contains(err.Error(), "cannot be reached: connection refused") || f.batches != 1 {
		t.Errorf("got %v after %d requests", err, f.batches)
	}
}

func TestImportStopsAtOnceWithoutPermission(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound} {
		f := &fakeBroker{before: func(int) error { return &client.Error{Status: status} }}
		_, _, err := run(t.Context(), t, f, Options{Path: writeRows(t, rows(5000)...)})
		if err == nil || f.batches > defaultParallel {
			t.Errorf("%d: got %v after %d requests", status, err, f.batches)
		}
	}
}

func TestABatchThatIsRefusedAsAWholeIsHalved(t *testing.T) {
	t.Parallel()
	f := &fakeBroker{}
	o := Options{Path: writeRows(t, rows(10)...), Target: "http://broker", Application: "my-app"}
	var out, errs strings.Builder
	o.Out, o.Err = &out, &errs
	o.Do = func(ctx context.Context, method, path string, body, into any) error {
		if strings.Contains(string(body.(json.RawMessage)), `"c7"`) {
			return &client.Error{Status: http.StatusRequestEntityTooLarge, Message: "too large"}
		}
		return f.do(ctx, method, path, body, into)
	}
	if err := Run(t.Context(), o); err == nil || len(f.stored) != 9 {
		t.Errorf("got %v, %d connections", err, len(f.stored))
	}
	mustContain(t, out.String(), "1 413 too large")
}

func TestInterruptedImportGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	f := &fakeBroker{row: func(row *transfer.Row) string {
		if strings.HasSuffix(row.ConsumerID, "77") {
			return `"status_code":422,"error":{"type_name":"InvalidStateError","message":"no"}`
		}
		return ""
	}}
	ctx, cancel := context.WithCancel(t.Context())
	f.before = func(request int) error {
		if request == 5 {
			cancel()
		}
		return nil
	}
	texts := rows(5000)
	texts[10] = texts[9] // a duplicate
	path := writeRows(t, texts...)
	out, _, err := run(ctx, t, f, Options{Path: path, Parallel: 3})
	if err == nil || !strings.HasPrefix(err.Error(), "interrupted after row ") {
		t.Fatalf("got %v", err)
	}
	first := len(f.stored)
	if first == 0 || first == 4949 {
		t.Fatalf("%d connections are stored after the interruption", first)
	}
	mustContain(t, out, "CREATED UPDATED KEPT REFUSED")
	// Another file, or other options, are not taken for the same import.
	if _, _, err := run(t.Context(), t, f, Options{Path: path, Standby: true}); err == nil || !strings.Contains(err.Error(), "with other options") {
		t.Errorf("got %v", err)
	}
	f.before = nil
	f.batches = 0
	out, _, err = run(t.Context(), t, f, Options{Path: path, Parallel: 3})
	if err == nil || err.Error() != "refused rows: 50" {
		t.Errorf("got %v", err)
	}
	mustContain(t, out, "4949 0 1 50 crm/hubspot", "This run went on after row", "1 the connection is in the file more than once: row 11")
	for key, n := range f.stores {
		if n != 1 {
			t.Errorf("%s was stored %d times", key, n)
		}
	}
	text, err := os.ReadFile(path + ".refused.ndjson")
	if err != nil || strings.Count(string(text), "\n") != 50 {
		t.Errorf("got %v, %d refused rows, want 50", err, strings.Count(string(text), "\n"))
	}
	if most := 5000/maxSent + 4 - first/maxSent; f.batches > most {
		t.Errorf("%d batches were sent, want at most %d", f.batches, most)
	}
}

func TestRowsAreWrittenToAFileInPlaceOfTheBroker(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "canonical")
	texts := rows(700)
	report, _, err := run(t.Context(), t, nil, Options{Path: writeRows(t, append(slices.Clone(texts), "{}")...), RowsFile: out, Parallel: 9})
	if err == nil || err.Error() != "refused rows: 1" {
		t.Errorf("got %v", err)
	}
	mustContain(t, report, "Conversion of", "700 0 0 0 crm/hubspot", "No broker has checked the rows.")
	text, err := os.ReadFile(out)
	if err != nil || string(text) != strings.Join(texts, "\n")+"\n" {
		t.Errorf("got %v and %d rows, want the rows in their order", err, strings.Count(string(text), "\n"))
	}
	o := Options{Path: writeRows(t, `{"consumer_id":"a","provider":"p","access_token":"at-é","refresh_token":"rt-1"}`), RowsFile: out + "2"}
	o.Convert.Format, o.Convert.Connectors = "oauth2-token", map[string]connector.ID{"p": {UnifiedAPI: "crm", ServiceID: "hubspot"}}
	report, _, err = run(t.Context(), t, nil, o)
	if err == nil || err.Error() != "refused rows: 1" {
		t.Errorf("got %v, want a refusal of the token that the broker would refuse", err)
	}
	mustContain(t, report, "1 a field is missing or wrong")
	if _, _, err := run(t.Context(), t, nil, Options{Path: out, RowsFile: out}); err == nil {
		t.Error("a file that exists is replaced")
	}
}

func TestStandardInputIsRead(t *testing.T) {
	t.Parallel()
	f := &fakeBroker{}
	results := filepath.Join(t.TempDir(), "refused")
	_, _, err := run(t.Context(), t, f, Options{Path: "-", Input: strings.NewReader(row(1)), Results: results})
	if err != nil || len(f.stored) != 1 {
		t.Errorf("got %v, %d connections", err, len(f.stored))
	}
}

func TestAFileThatOthersCanReadIsWarnedAbout(t *testing.T) {
	t.Parallel()
	path := writeRows(t, row(1))
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	_, errs, err := run(t.Context(), t, &fakeBroker{}, Options{Path: path})
	if err != nil || !strings.Contains(errs, "all users of this machine can read") {
		t.Errorf("got %v, %q", err, errs)
	}
}

func TestErrorsOfTheFileEndTheImport(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                     "the file is empty",
		"[]":                                   "JSON array",
		"a,b\n":                                `the column "a" is unknown`,
		"consumer_id,unified_api,service_id\n": "has a header and no rows",
	} {
		path := writeRows(t, text)
		if _, _, err := run(t.Context(), t, &fakeBroker{}, Options{Path: path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	path := writeRows(t, "a")
	for _, o := range []Options{{}, {Path: path, Results: path}, {Path: path + "x"}, {Path: path, Keys: sealed.Keys{IdentityFile: "a", PassphraseFile: "b"}}, {Path: filepath.Dir(path)}} {
		if _, _, err := run(t.Context(), t, &fakeBroker{}, o); err == nil {
			t.Errorf("%+v is accepted", o.Path)
		}
	}
	fail := errors.New("disk")
	_, _, err := run(t.Context(), t, &fakeBroker{}, Options{Path: "-", Input: failing{fail}, Results: path + ".r"})
	if !errors.Is(err, fail) {
		t.Errorf("got %v, want %v", err, fail)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
