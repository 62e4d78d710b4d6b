package transfer

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func records(t *testing.T, file string) (recs []*Record, errs []string) {
	t.Helper()
	source, err := NewSource(strings.NewReader(file))
	if err != nil {
		return nil, []string{err.Error()}
	}
	for {
		rec, err := source.Read()
		switch {
		case errors.Is(err, io.EOF):
			return recs, errs
		case err != nil:
			errs = append(errs, err.Error())
			if rec == nil {
				return recs, errs
			}
		}
		recs = append(recs, rec)
	}
}

// TestRefusedRowsCanBeFedBack: what a file of refused rows holds is read as the row was, with
// the same options.
func TestRefusedRowsCanBeFedBack(t *testing.T) {
	t.Parallel()
	const csvRow = "userId,provider,access_token,refresh_token,expires_at,row\njane,hubspot,at-1,rt-1,1767366245,7\n"
	for name, test := range map[string]struct {
		options Options
		file    string
	}{
		"canonical": {Options{}, tokens("," + at)},
		"canonical CSV": {Options{}, "consumer_id,unified_api,service_id,credentials.access_token,credentials.refresh_token,credentials.expires_at\n" +
			"jane,crm,hubspot,at-1,rt-1,2026-01-02T15:04:05Z\n"},
		"JSON in a CSV": {Options{}, "consumer_id,unified_api,service_id,credentials\n" +
			`jane,crm,hubspot,"{""access_token"":""at-1"",""refresh_token"":""rt-1"",""expires_at"":""2026-01-02T15:04:05Z""}"` + "\n"},
		"CSV":  {Options{Format: "authjs", Connectors: hubspot}, csvRow},
		"JSON": {Options{Format: "authjs", Connectors: hubspot}, `{"userId":"jane","provider":"hubspot","access_token":"at-1","refresh_token":"rt-1","expires_at":1767366245}`},
	} {
		file := test.file
		for range 2 { // refused once more
			recs, errs := records(t, file)
			if len(recs) != 1 || errs != nil {
				t.Fatalf("%s: got %v, %v", name, recs, errs)
			}
			file = string(recs[0].AppendRefused(nil, errors.New("a \"reason\"")))
			if !strings.HasPrefix(file, `{"row":1,"error":"a \"reason\"",`) || strings.Count(file, `"error"`) != 1 {
				t.Errorf("%s: got %s", name, file)
			}
			if got := convert(t, test.options, file); len(got) != 1 || got[0] != tokens(","+at) {
				t.Errorf("%s: %s becomes %v", name, file, got)
			}
		}
	}
}

func TestARowThatIsRefusedAgainKeepsItsNumber(t *testing.T) {
	t.Parallel()
	first, _ := records(t, tokens("")+"\n{\n"+tokens("")+"\n")
	var file []byte
	for _, rec := range first[1:] {
		file = rec.AppendRefused(file, errors.New("first"))
	}
	again, errs := records(t, string(file))
	if len(again) != 2 || errs != nil {
		t.Fatalf("got %v, %v", again, errs)
	}
	for i, rec := range again {
		if got, want := string(rec.AppendRefused(nil, errors.New("second"))), fmt.Sprintf(`{"row":%d,"error":"second",`, i+2); !strings.HasPrefix(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	// Another table can have a column of that name.
	own, _ := records(t, `{"row":77,"error":null}`)
	if got := string(own[0].AppendRefused(nil, errors.New("x"))); !strings.HasPrefix(got, `{"row":1,`) {
		t.Errorf("got %s", got)
	}
}

func TestALineThatIsNoObjectIsFedBackAsText(t *testing.T) {
	t.Parallel()
	broken := strings.TrimSuffix(tokens(""), "}")
	recs, _ := records(t, broken)
	line := string(recs[0].AppendRefused(nil, errors.New("reason")))
	if got := convert(t, Options{}, line); len(got) != 1 || !strings.Contains(got[0], "ends too early") {
		t.Errorf("%s becomes %v, want the same error", line, got)
	}
	if got := convert(t, Options{}, strings.Replace(line, `}"}`, `}}"}`, 1)); len(got) != 1 || got[0] != tokens("") {
		t.Errorf("mended, it becomes %v", got)
	}
}

func TestARowOfTooManyColumnsKeepsThem(t *testing.T) {
	t.Parallel()
	recs, _ := records(t, "a,b\n1,2,3\n")
	want := `{"row":1,"error":"reason","a":"1","b":"2","column 3":"3"}` + "\n"
	if got := string(recs[0].AppendRefused(nil, errors.New("reason"))); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestARecordNeverPrintsItsValues(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"a,b\nSECRET,x\n", `{"a":"SECRET"}`} {
		recs, _ := records(t, file)
		if got := fmt.Sprintf("%v %+v %#v %s %x", recs[0], *recs[0], recs[0], *recs[0], recs[0]); strings.Contains(got, "SECRET") {
			t.Errorf("got %s", got)
		}
	}
}

func TestSourceRefusesFilesThatAreNoRows(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]string{
		"":              "the file is empty",
		" \n ":          "the file is empty",
		`[{"a":1}]`:     "the file is a JSON array",
		"\xff\xfea\x00": "likely UTF-16",
		"a,a\n1,2\n":    `the column "a" twice`,
		"a,\n1,2\n":     "column 2 of the header has no name",
		"a,b\n1,\"" + strings.Repeat("x\n", 1<<20): "a quote may be missing",
	} {
		if _, errs := records(t, file); len(errs) != 1 || !strings.Contains(errs[0], want) {
			t.Errorf("%.20q: got %v, want %q", file, errs, want)
		}
	}
}

func TestCSVToleratesWhatSpreadsheetsWrite(t *testing.T) {
	t.Parallel()
	recs, errs := records(t, "\xef\xbb\xbfa;b\r\n1;\"x\r\ny\"\r\n\r\n2;z\r\n")
	if len(recs) != 2 || errs != nil || recs[0].header[0] != "a" || recs[1].fields[1] != "z" || recs[1].Line != 5 {
		t.Errorf("got %v, %v", recs, errs)
	}
}
