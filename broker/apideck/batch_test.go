package apideck

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

const (
	named   = `"consumer_id": "jane", "unified_api": "crm", "service_id": "acme"`
	goodRow = `{` + named + `, "credentials": {"access_token": "a", "refresh_token": "r"}}`
	salt    = `"salt": "000102030405060708090a0b0c0d0e0f"`
)

func parseImports(body string) ([]record.ImportRow, error) {
	return ParseImports(strings.NewReader(body), "my-app")
}

func TestParseImportsReadsEachRow(t *testing.T) {
	t.Parallel()
	rows, err := ParseImports(iotest.OneByteReader(strings.NewReader(`{"connections": [`+goodRow+`,
		{"app": "my-app", "consumer_id": "j\u00fcrgen", "unified_api": "hris", "service_id": "keyed", "settings": {"api_key": "k"}, "metadata": {"n": 1.0}}]}`)), "my-app")
	if err != nil || len(rows) != 2 || rows[0].Err != nil || rows[1].Err != nil {
		t.Fatalf("got %v, %v", rows, err)
	}
	if want := (record.Key{Application: "my-app", Consumer: "jane", Connector: connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}}); rows[0].Key != want {
		t.Errorf("got %s, want %s", rows[0].Key, want)
	}
	if c := rows[0].Import.Credentials; c.AccessToken.Reveal() != "a" || c.RefreshToken.Reveal() != "r" || rows[0].Import.ConsumerID != "" {
		t.Errorf("got %+v", rows[0].Import)
	}
	if rows[1].Key.Consumer != "jürgen" || rows[1].Import.Settings["api_key"] != "k" || fmt.Sprint(rows[1].Import.Metadata["n"]) != "1.0" {
		t.Errorf("got %s with %+v", rows[1].Key, rows[1].Import)
	}
}

func TestABadRowSpoilsNoOther(t *testing.T) {
	t.Parallel()
	const syntax, invalid = record.InputSyntax, record.InputInvalid
	tests := []struct {
		row   string
		kind  record.InputKind
		field string
	}{
		{`7`, syntax, "connections[1]"},
		{`null`, syntax, "connections[1]"},
		{`[]`, syntax, "connections[1]"},
		{`{}`, invalid, "connections[1].consumer_id"},
		{`{"consumer_id": null}`, invalid, "connections[1].consumer_id"},
		{`{"consumer_id": ""}`, invalid, "connections[1].consumer_id"},
		{`{"consumer_id": 7}`, syntax, "connections[1].consumer_id"},
		{`{"consumer_id": "a\u0000", "unified_api": "crm", "service_id": "x"}`, invalid, "connections[1].consumer_id"},
		{`{"consumer_id": "` + strings.Repeat("x", 256) + `", "unified_api": "crm", "service_id": "x"}`, invalid, "connections[1].consumer_id"},
		{`{"consumer_id": "a", "service_id": "x"}`, invalid, "connections[1].unified_api"},
		{`{"consumer_id": "a", "unified_api": "crm"}`, invalid, "connections[1].service_id"},
		{`{` + named + `, "app": "other"}`, invalid, "connections[1].app"},
		{`{` + named + `, "app": ""}`, invalid, "connections[1].app"},
		{`{` + named + `, "tokens": {}}`, syntax, `"connections[1].tokens"`},
		{`{` + named + `, "service_id": "y"}`, syntax, "connections[1].service_id"},
		{`{` + named + `, "credentials": {"accessToken": "SECRET"}}`, syntax, `"connections[1].credentials.accessToken"`},
		{`{` + named + `, "credentials": {"access_token": 7}}`, syntax, "connections[1].credentials.access_token"},
		{`{` + named + `, "credentials": {"access_token": "SECRET\n1"}}`, invalid, "connections[1].credentials.access_token"},
		{`{` + named + `, "credentials": {"refresh_token": "null"}}`, invalid, "connections[1].credentials.refresh_token"},
		{`{` + named + `, "credentials": {"expires_in": -1}}`, invalid, "connections[1].credentials.expires_in"},
		{`{` + named + `, "credentials": {"expires_at": "SECRET"}}`, syntax, "connections[1].credentials.expires_at"},
		{`{` + named + `, "settings": []}`, syntax, "connections[1].settings"},
		{`{` + named + `, "metadata": {"a": "\ud800"}}`, syntax, "connections[1]"},
		{"{" + named + ", \"metadata\": {\"a\": \"\xff\"}}", syntax, "connections[1]"},
	}
	for _, test := range tests {
		rows, err := parseImports(`{"connections": [` + goodRow + `,` + test.row + `,` + goodRow + `]}`)
		if err != nil || len(rows) != 3 || rows[0].Err != nil || rows[1].Err == nil || rows[2].Err != nil {
			t.Errorf("%s: got %v, %v", test.row, rows, err)
			continue
		}
		wantInputError(t, rows[1].Err, test.kind, test.field)
		if strings.Contains(rows[1].Err.Error(), "SECRET") {
			t.Errorf("%s: the error has a secret: %v", test.row, rows[1].Err)
		}
	}
}

func TestARowThatIsNoConnectorsIsNotFound(t *testing.T) {
	t.Parallel()
	rows, err := parseImports(`{"connections": [{"consumer_id": "a", "unified_api": "CRM", "service_id": "x"}]}`)
	if err != nil || len(rows) != 1 || !errors.Is(rows[0].Err, record.ErrConnectorNotFound) {
		t.Errorf("got %v, %v, want ErrConnectorNotFound", rows, err)
	}
}

func TestARowIsNoLongerThanAnImport(t *testing.T) {
	t.Parallel()
	long := `{` + named + `, "metadata": {"a": "` + strings.Repeat("x", MaxBody) + `"}}`
	rows, err := parseImports(`{"connections": [` + long + `,` + goodRow + `]}`)
	if err != nil || len(rows) != 2 || rows[1].Err != nil {
		t.Fatalf("got %d rows, %v", len(rows), err)
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](rows[0].Err); !ok || tooLarge.Limit != MaxBody {
		t.Errorf("got %v, want a MaxBytesError of %d", rows[0].Err, MaxBody)
	}
}

// badBatches are bodies of which no row is taken.
var badBatches = []struct {
	body  string // with %s for the rows
	kind  record.InputKind
	field string
}{
	{``, record.InputSyntax, ""},
	{" \n", record.InputSyntax, ""},
	{`[%s]`, record.InputSyntax, ""},
	{`{"connections": [%s]`, record.InputSyntax, ""},
	{`{"connections": [%s}`, record.InputSyntax, ""},
	{`{"connections": [%s]} {}`, record.InputSyntax, ""},
	{`{"connections": [%s, SECRET]}`, record.InputSyntax, ""},
	{`{"connections": [%s], "connections": []}`, record.InputSyntax, "connections"},
	{`{"connections": [%s], "consumer_id": "SECRET"}`, record.InputSyntax, `"consumer_id"`},
	{`{"connections": {"a": %s}}`, record.InputSyntax, "connections"},
	{`{"connections": "SECRET"}`, record.InputSyntax, "connections"},
	{`{"connections": []}`, record.InputInvalid, "connections"},
	{`{"connections": null}`, record.InputInvalid, "connections"},
	{`{}`, record.InputInvalid, "connections"},
	{`{"connections": [%s` + strings.Repeat(`, 1`, MaxRows) + `]}`, record.InputInvalid, "connections"},
}

func TestABadBatchIsRefusedWhole(t *testing.T) {
	t.Parallel()
	for _, test := range badBatches {
		_, err := parseImports(strings.ReplaceAll(test.body, "%s", goodRow))
		wantInputError(t, err, test.kind, test.field)
		if strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: the error has a secret: %v", test.body, err)
		}
	}
	failed := errors.New("the connection broke")
	for _, begin := range []string{``, `{`, `{"connections": `, `{"connections": [`, `{"connections": [` + goodRow, `{"connections": [` + goodRow + `]`, `{"connections": [` + goodRow + `]}`} {
		if _, err := ParseImports(io.MultiReader(strings.NewReader(begin), iotest.ErrReader(failed)), "a"); !errors.Is(err, failed) {
			t.Errorf("%s: got %v, want that of the reader", begin, err)
		}
	}
}

// Small values take far more memory than their text.
func TestABatchOfVeryManyValuesIsRefused(t *testing.T) {
	t.Parallel()
	settings := `"settings":{"a":[` + strings.Repeat("1,", maxValues/10) + `1]}}`
	row := strings.TrimSuffix(strings.TrimSpace(goodRow), "}") + "," + settings
	rows := func(n int) string { return `{"connections": [` + strings.Repeat(row+",", n-1) + row + `]}` }
	if parsed, err := parseImports(rows(9)); err != nil || len(parsed) != 9 {
		t.Errorf("nine tenths: %d rows, %v", len(parsed), err)
	}
	_, err := parseImports(rows(10))
	wantInputError(t, err, record.InputInvalid, "connections")
}

func TestParseVerificationReadsHashes(t *testing.T) {
	t.Parallel()
	mac := strings.Repeat("0A", 32)
	rows, key, err := ParseVerification(strings.NewReader(
		`{"connections": [{`+named+`, "access_token": "`+mac+`"}, {`+named+`, "refresh_token": "`+mac+`"}], `+salt+`}`), "my-app")
	if err != nil || len(rows) != 2 || hex.EncodeToString(key) != "000102030405060708090a0b0c0d0e0f" {
		t.Fatalf("got %v, %x, %v", rows, key, err)
	}
	if want := bytes.Repeat([]byte{10}, 32); !bytes.Equal(rows[0].AccessToken, want) || rows[0].RefreshToken != nil || !bytes.Equal(rows[1].RefreshToken, want) {
		t.Errorf("got %+v", rows)
	}
}

func TestABadVerificationIsRefusedWhole(t *testing.T) {
	t.Parallel()
	tests := []struct {
		body  string
		field string
	}{
		{`{"connections": [{` + named + `}]}`, "salt"},
		{`{"salt": null, "connections": [{` + named + `}]}`, "salt"},
		{`{"salt": "", "connections": [{` + named + `}]}`, "salt"},
		{`{"salt": "000102030405060708090a0b0c0d0e", "connections": [{` + named + `}]}`, "salt"},
		{`{"salt": "` + strings.Repeat("00", 65) + `", "connections": [{` + named + `}]}`, "salt"},
		{`{"salt": "000102030405060708090a0b0c0d0e0", "connections": [{` + named + `}]}`, "salt"},
		{`{"salt": 7, "connections": [{` + named + `}]}`, "salt"},
		{`{` + salt + `, "connections": [{` + named + `}, {` + named + `, "access_token": "SECRET"}]}`, "connections[1].access_token"},
		{`{` + salt + `, "connections": [{` + named + `, "refresh_token": ""}]}`, "connections[0].refresh_token"},
		{`{` + salt + `, "connections": [{` + named + `, "credentials": {}}]}`, `"connections[0].credentials"`},
		{`{` + salt + `, "connections": [{"consumer_id": "a"}]}`, "connections[0].unified_api"},
	}
	for _, test := range tests {
		_, _, err := ParseVerification(strings.NewReader(test.body), "my-app")
		input, ok := errors.AsType[*record.InputError](err)
		if !ok || input.Field != test.field || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: got %v, want an InputError for %s", test.body, err, test.field)
		}
	}
	for _, test := range badBatches {
		if _, _, err := ParseVerification(strings.NewReader(strings.ReplaceAll(test.body, "%s", `{`+named+`}`)), "my-app"); err == nil {
			t.Errorf("%s: got no error", test.body)
		}
	}
}

// Whatever is sent, each row is either importable or has an error, which says what is wrong.
func FuzzParseBatch(f *testing.F) {
	f.Add([]byte(`{"connections": [` + goodRow + `, {}]}`))
	f.Add([]byte(`{` + salt + `, "connections": [{` + named + `, "access_token": "` + strings.Repeat("00", 32) + `"}]}`))
	for _, test := range badBatches {
		f.Add([]byte(strings.ReplaceAll(test.body, "%s", `{`+named+`, "credentials": {"access_token": "a\u0000"}}`)))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		rows, err := ParseImports(bytes.NewReader(body), "my-app")
		checkBatchError(t, err)
		if err == nil && (len(rows) == 0 || len(rows) > MaxRows) {
			t.Errorf("got %d rows", len(rows))
		}
		for _, row := range rows {
			if row.Err != nil {
				checkBatchError(t, row.Err)
				continue
			}
			if row.Import == nil || row.Key.Application != "my-app" || row.Key.Validate() != nil {
				t.Errorf("got %+v without an error", row)
			}
		}
		verified, key, err := ParseVerification(bytes.NewReader(body), "my-app")
		checkBatchError(t, err)
		if err == nil && (len(verified) == 0 || len(key) < 16) {
			t.Errorf("got %d rows and a key of %d bytes", len(verified), len(key))
		}
	})
}

func checkBatchError(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	_, input := errors.AsType[*record.InputError](err)
	_, tooLarge := errors.AsType[*http.MaxBytesError](err)
	if !input && !tooLarge && !errors.Is(err, record.ErrConnectorNotFound) {
		t.Errorf("got %v, want an InputError", err)
	}
}
