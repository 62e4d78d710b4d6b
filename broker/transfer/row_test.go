package transfer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
)

const full = `{"app":"my-app","consumer_id":"jane","unified_api":"crm","service_id":"hubspot",` +
	`"credentials":{"access_token":"at<1>","refresh_token":"rt-1","issued_at":"2026-01-02T15:04:05Z","expires_at":"2026-01-02T16:04:05.5Z","expires_in":3600},` +
	`"settings":{"api_key":"key-1","n":12345678901234567890},"metadata":{"a":{"b":[1.50]}}}`

func read(t *testing.T, text string) (rows []*Row, failures []string) {
	t.Helper()
	r := NewReader(strings.NewReader(text))
	for {
		row, err := r.Read()
		if line, ok := errors.AsType[*LineError](err); ok {
			failures = append(failures, line.Error())
			continue
		}
		if errors.Is(err, io.EOF) {
			return rows, failures
		}
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row)
	}
}

func TestARowIsWrittenAsItWasRead(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		full,
		`{"consumer_id":"j","unified_api":"crm","service_id":"x"}`,
		`{"consumer_id":"j","unified_api":"crm","service_id":"x","credentials":{"refresh_token":"r","refresh_token_expires_in":9}}`,
	} {
		rows, failures := read(t, text)
		if len(rows) != 1 || failures != nil {
			t.Fatalf("%s: got %v, %v", text, rows, failures)
		}
		var out bytes.Buffer
		if err := NewWriter(&out).Write(rows[0]); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSuffix(out.String(), "\n"); got != text {
			t.Errorf("got\n%s\nwant\n%s", got, text)
		}
	}
}

func TestARowNeverPrintsItsSecrets(t *testing.T) {
	t.Parallel()
	rows, _ := read(t, full)
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
		fmt.Fprintf(&out, verb+verb, rows[0], *rows[0])
	}
	for _, v := range []any{rows[0], *rows[0], rows} {
		encoded, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(encoded)
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("row", "row", rows[0], "value", *rows[0])
	for _, secret := range []string{"at<1>", "at\\u003c1", "rt-1", "key-1"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("%q is printed: %s", secret, out.String())
		}
	}
	if !strings.Contains(out.String(), "my-app/jane/crm/hubspot") {
		t.Errorf("got %s, want the name of the connection", out.String())
	}
}

func TestReaderNamesTheLineAndTheMember(t *testing.T) {
	t.Parallel()
	const start = `{"consumer_id":"j","unified_api":"crm","service_id":"x"`
	for text, want := range map[string]string{
		start + `,"tokens":{}}`:                            `"tokens" is not a known member`,
		start + `,"credentials":{"accessToken":"SECRET"}}`: `"credentials.accessToken" is not a known member`,
		start + `,"credentials":{"access_token":7}}`:       `credentials.access_token must be a string`,
		start + `,"credentials":{"expires_at":7}}`:         `credentials.expires_at must be a string`,
		start + `,"settings":[]}`:                          `settings must be a JSON object`,
		start + `,"app":"a","app":"b"}`:                    `"app" is there twice`,
		start + `,"app":7}`:                                `app must be a string`,
		start + `} {}`:                                     `has data after the JSON object`,
		start + `,"SECRET`:                                 `is not valid JSON`,
		start + `,"metadata":{"a":"\ud800"}}`:              `half of a surrogate pair`,
		"\xff" + start + `}`:                               `is not valid UTF-8`,
		`[]`:                                               `is not a JSON object`,
		`{}`:                                               `consumer_id is required`,
		`{"consumer_id":"j","unified_api":"crm"}`:          `service_id is required`,
		`{"consumer_id":"j","unified_api":"CRM","service_id":"x"}`:                 `a connector is named`,
		`{"consumer_id":"j","unified_api":"crm","service_id":"x","app":"a\u0000"}`: `app`,
		`{"` + strings.Repeat("SECRET", 300_000):                                   `is longer than`,
	} {
		rows, failures := read(t, "\n"+text+"\n"+start+"}\n")
		if len(rows) != 1 || len(failures) != 1 {
			t.Errorf("%.80s: got %v, %v, want one failure, and the row after it", text, rows, failures)
			continue
		}
		if got := failures[0]; !strings.HasPrefix(got, "line 2: ") || !strings.Contains(got, want) || strings.Contains(got, "SECRET") {
			t.Errorf("%.80s: got %q, want line 2 and %q", text, got, want)
		}
	}
}

func TestReaderToleratesWhatEditorsWrite(t *testing.T) {
	t.Parallel()
	rows, failures := read(t, "\xef\xbb\xbf"+full+"\r\n\r\n  "+full+"\r\n"+strings.Replace(full, `"app"`, `"row":3,"error":"mended","app"`, 1))
	if len(rows) != 3 || failures != nil {
		t.Errorf("got %d rows and %v, want 3", len(rows), failures)
	}
}

func TestReaderReturnsTheErrorOfItsInput(t *testing.T) {
	t.Parallel()
	fail := errors.New("disk")
	r := NewReader(io.MultiReader(strings.NewReader(full+"\n"), failing{fail}))
	if _, err := r.Read(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(); !errors.Is(err, fail) {
		t.Errorf("got %v, want %v", err, fail)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// What is accepted is written so that it is accepted, and means the same.
func FuzzParseRow(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(`{"consumer_id":"j","unified_api":"crm","service_id":"x","credentials":{"token_type":"b","expires_in":"60"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		row, err := ParseRow(text)
		if err != nil {
			return
		}
		once, err := row.AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseRow(once)
		if err != nil {
			t.Fatalf("%s: %v", once, err)
		}
		if twice, err := again.AppendJSON(nil); err != nil || !bytes.Equal(once, twice) {
			t.Errorf("got %s, %v, want %s", twice, err, once)
		}
	})
}
