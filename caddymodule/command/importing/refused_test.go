package importing

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/client"
)

// interrupt imports rows of which some are refused, and ends in the middle. It returns the paths
// of the file, of its refused rows and of the state.
func interrupt(t *testing.T, f *fakeBroker) (path, refused, state string) {
	t.Helper()
	f.row = func(row *transfer.Row) string {
		if strings.HasSuffix(row.ConsumerID, "7") {
			return `"status_code":422,"error":{"type_name":"InvalidStateError","message":"no"}`
		}
		return ""
	}
	ctx, cancel := context.WithCancel(t.Context())
	f.before = func(request int) error {
		if request == 3 {
			cancel()
		}
		return nil
	}
	path = writeRows(t, rows(2000)...)
	out, _, err := run(ctx, t, f, Options{Path: path, Parallel: 1})
	if err == nil || !strings.HasPrefix(err.Error(), "interrupted after row ") {
		t.Fatalf("got %v", err)
	}
	if strings.Contains(out, "Mend them there") {
		t.Errorf("rows are to be mended in a file that is still written to:\n%s", out)
	}
	mustContain(t, out, "Leave that file as it is until the import is finished.")
	f.before = nil
	refused = path + ".refused.ndjson"
	return path, refused, refused + ".state"
}

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func writeText(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRowsMendedDuringAnInterruptionAreNotWrittenOver(t *testing.T) {
	t.Parallel()
	for name, mend := range map[string]func(string) string{
		"longer":  func(text string) string { return strings.ReplaceAll(text, "rt-7", "rt-mended-7") },
		"equal":   func(text string) string { return strings.ReplaceAll(text, "rt-7", "mm-7") },
		"shorter": func(text string) string { return text[strings.Index(text, "\n")+1:] },
		"more":    func(text string) string { return text + row(9) + "\n" },
		"empty":   func(string) string { return "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fakeBroker{}
			path, refused, state := interrupt(t, f)
			before := strings.Count(readText(t, refused), "\n")
			mended := mend(readText(t, refused))
			writeText(t, refused, mended)
			batches := f.batches
			_, _, err := run(t.Context(), t, f, Options{Path: path})
			if err == nil || !strings.Contains(err.Error(), refused+" was changed after the import was interrupted") || f.batches != batches {
				t.Errorf("got %v after %d more requests", err, f.batches-batches)
			}
			if readText(t, refused) != mended {
				t.Error("the mended rows were touched")
			}
			// The rows are imported when the import is finished, not before.
			if _, _, err := run(t.Context(), t, f, Options{Path: refused}); err == nil || !strings.Contains(err.Error(), "finish that import first") {
				t.Errorf("got %v", err)
			}
			// What the message says to do works.
			if err := os.Rename(refused, path+".mended"); err != nil {
				t.Fatal(err)
			}
			out, _, err := run(t.Context(), t, f, Options{Path: path})
			if err == nil || err.Error() != "refused rows: 200" {
				t.Errorf("got %v", err)
			}
			mustContain(t, out, "1800 0 0 200 crm/hubspot", fmt.Sprintf("Refused rows in the file that was moved from %s: %d.", refused, before), fmt.Sprintf("with their secrets: %d.", 200-before))
			if n := strings.Count(readText(t, refused), "\n"); n != 200-before || readText(t, path+".mended") != mended {
				t.Errorf("%d rows are in the new file, want %d", n, 200-before)
			}
			if _, err := os.Stat(state); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the state is left: %v", err)
			}
		})
	}
}

// ledgerOf returns the ledger with which an import begins, or goes on.
func ledgerOf(t *testing.T, o *Options) *ledger {
	t.Helper()
	in, err := openInput(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.close)
	l, err := openLedger(in, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestAWriteThatTheStateDoesNotKnowIsRepeated: the command was killed between the two.
func TestAWriteThatTheStateDoesNotKnowIsRepeated(t *testing.T) {
	t.Parallel()
	f := &fakeBroker{}
	path, refused, state := interrupt(t, f)
	o := Options{Path: path, Target: "http://broker", Application: "my-app"}
	l := ledgerOf(t, &o)
	lines := []byte(`{"row":757,"error":"no"}` + "\n")
	l.state.Next = l.refused.with(lines)
	if err := errors.Join(l.file.save(&l.state), l.refused.append(lines), l.refused.close()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := run(t.Context(), t, f, Options{Path: path}); err == nil || err.Error() != "refused rows: 200" {
		t.Errorf("got %v", err)
	}
	if text := readText(t, refused); strings.Count(text, "\n") != 200 || strings.Count(text, `"row":757,`) != 1 {
		t.Errorf("got %d rows, want 200", strings.Count(text, "\n"))
	}
	if _, err := os.Stat(state); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state is left: %v", err)
	}
}

func TestAnImportThatFailsAtOnceTouchesNoFile(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]error{
		"wrong key":   &client.Error{Status: http.StatusUnauthorized},
		"unreachable": errors.New("connection refused"),
	} {
		f := &fakeBroker{before: func(int) error { return failure }}
		// Rows that are refused without the broker come first.
		path := writeRows(t, append([]string{"{}", "{"}, rows(1200)...)...)
		refused := path + ".refused.ndjson"
		writeText(t, refused, "mended\n")
		out, _, err := run(t.Context(), t, f, Options{Path: path, Verbose: true})
		if err == nil || readText(t, refused) != "mended\n" {
			t.Errorf("%s: got %v and %q", name, err, readText(t, refused))
		}
		if out != "" {
			t.Errorf("%s: a report of nothing is written:\n%s", name, out)
		}
		if files, _ := filepath.Glob(path + ".*"); len(files) != 1 {
			t.Errorf("%s: files are left: %v", name, files)
		}
	}
}

func TestRefusedRowsOfEarlierImportsAreSetAside(t *testing.T) {
	t.Parallel()
	path := writeRows(t, row(1), "{}")
	refused := path + ".refused.ndjson"
	writeText(t, refused, "mended\n")
	writeText(t, refused+".1", "older\n")
	out, _, err := run(t.Context(), t, &fakeBroker{}, Options{Path: path})
	if err == nil || readText(t, refused+".1") != "older\n" || readText(t, refused+".2") != "mended\n" || strings.Count(readText(t, refused), "\n") != 1 {
		t.Errorf("got %v", err)
	}
	mustContain(t, out, "They are now in "+refused+".2.")
	// The same rows, refused for the same reasons, need no copy.
	out, _, err = run(t.Context(), t, &fakeBroker{}, Options{Path: path})
	if files, _ := filepath.Glob(refused + "*"); err == nil || len(files) != 3 || strings.Contains(out, "earlier") {
		t.Errorf("got %v, files %v\n%s", err, files, out)
	}
	// Rows that no longer exist are not taken for those of this import.
	writeText(t, path, row(1)+"\n")
	if out, _, err = run(t.Context(), t, &fakeBroker{}, Options{Path: path}); err != nil {
		t.Error(err)
	}
	mustContain(t, out, "They are now in "+refused+".3.")
	if _, err := os.Stat(refused); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want no file of refused rows", err)
	}
}

// TestRowsBeyondAGapAreDoneOnce: of parallel batches the second was done at the interruption,
// and the first was not.
func TestRowsBeyondAGapAreDoneOnce(t *testing.T) {
	t.Parallel()
	saved := state{Done: 100, Beyond: []span{{First: 201, Last: 300}, {First: 401, Last: 500}}}
	saved.Beyond = slices.Grow(saved.Beyond, 2)
	l := &ledger{earlier: saved.clone(), state: saved}
	l.state.add(span{First: 101, Last: 200})
	for row, want := range map[int]bool{100: true, 101: false, 201: true, 300: true, 301: false, 401: true, 500: true, 501: false} {
		if l.isDone(row) != want {
			t.Errorf("row %d was done: %t, want %t", row, l.isDone(row), want)
		}
	}
}

// TestTheSumsOfAContinuedImportAreThoseOfTheFile: the batches of the rows 251 to 500 and from
// 751 on were done, and the others were not.
func TestTheSumsOfAContinuedImportAreThoseOfTheFile(t *testing.T) {
	t.Parallel()
	f := &fakeBroker{}
	path := writeRows(t, rows(1500)...)
	o := Options{Path: path, Target: "http://broker", Application: "my-app"}
	l := ledgerOf(t, &o)
	for _, done := range []span{{251, 500}, {751, 1500}} {
		b := &batch{sent: 1}
		for number := done.First; number <= done.Last; number++ {
			it := &item{record: &transfer.Record{Number: number}, outcome: outcomeCreated}
			it.key.Connector.UnifiedAPI, it.key.Connector.ServiceID = "crm", "hubspot"
			b.items = append(b.items, it)
		}
		if err := l.settle(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.close(false); err != nil {
		t.Fatal(err)
	}
	out, _, err := run(t.Context(), t, f, Options{Path: path, Parallel: 1})
	if err != nil || len(f.stored) != 500 {
		t.Errorf("got %v, %d rows were sent, want 500", err, len(f.stored))
	}
	mustContain(t, out, "1500 0 0 0 all")
}
