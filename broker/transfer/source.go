package transfer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// A Record is a row of a file before its conversion. It has secrets, and prints none.
type Record struct {
	Number int // of the row; counts from 1
	Line   int // on which it begins; counts from 1

	refused int               // the number that the row had when it was first refused; 0 if it was not
	text    string            // a line of JSON; empty for CSV
	header  []string          // CSV: the names of the columns,
	folded  map[string]string // the same by their folded form, and
	fields  []string          // their values
}

// Format implements [fmt.Formatter] for every verb.
func (r Record) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "row %d", r.Number) }

// MarshalJSON implements [json.Marshaler]. It returns only the number of the row.
func (r Record) MarshalJSON() ([]byte, error) { return json.Marshal(r.Number) }

// A Source reads the rows of a file: JSON, one object a line, or CSV with a header.
type Source struct {
	lines *lines     // nil for CSV
	csv   *csvReader // nil for JSON
	count int
}

// NewSource returns a source of the rows in r. It tells JSON from CSV by the first character.
func NewSource(r io.Reader) (*Source, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	switch first, err := firstByte(in); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("the file is empty")
	case err != nil:
		return nil, err
	case first == '{':
		return &Source{lines: newLines(in)}, nil
	case first == '[':
		return nil, errors.New("the file is a JSON array: write one object a line, for instance with jq -c '.[]'")
	case first >= 0xfe:
		return nil, errors.New("the file is not UTF-8, likely UTF-16: convert it, for instance with iconv -t UTF-8")
	default:
		table, err := newCSV(in)
		return &Source{csv: table}, err
	}
}

// firstByte returns the first byte that is neither space nor part of a byte order mark.
func firstByte(in *bufio.Reader) (byte, error) {
	start, err := in.Peek(4 << 10) // a short file has less
	start = bytes.TrimSpace(bytes.TrimPrefix(start, []byte("\xef\xbb\xbf")))
	if len(start) > 0 {
		return start[0], nil
	}
	if err == nil {
		err = io.EOF
	}
	return 0, err
}

// Header returns the names of the columns, nil if the file is JSON.
func (s *Source) Header() []string {
	if s.csv == nil {
		return nil
	}
	return s.csv.header
}

// Read returns the next row. The error is [io.EOF] at the end. If it is a [*RowError], only that
// row is at fault: its record is returned as well, and the next call reads the row after it.
func (s *Source) Read() (*Record, error) {
	s.count++
	rec := &Record{Number: s.count}
	var err error
	if s.csv != nil {
		rec.header, rec.folded = s.csv.header, s.csv.folded
		rec.fields, rec.Line, err = s.csv.next()
	} else {
		var text []byte
		text, err = s.lines.next()
		rec.text, rec.Line, rec.refused = unwrapLine(text), s.lines.line, refusedRow(text)
	}
	if line, ok := errors.AsType[*LineError](err); ok {
		return rec, rowError(ReasonSyntax, "%v", line)
	}
	if err != nil {
		return nil, err
	}
	return rec, nil
}

// A file of refused rows has members beside those of the row: the error and the number of the
// row. What was no JSON object is its member line, as text.
const (
	memberRow   = "row"
	memberError = "error"
	memberLine  = "line"
)

// unwrapLine returns the text of a line that was refused because it was no JSON object, and
// any other line as it is.
func unwrapLine(text []byte) string {
	if !bytes.Contains(text, []byte(`"`+memberLine+`"`)) {
		return string(text)
	}
	var members map[string]json.RawMessage
	var line string
	if json.Unmarshal(text, &members) == nil && len(members) == 3 && members[memberRow] != nil && members[memberError] != nil &&
		json.Unmarshal(members[memberLine], &line) == nil {
		return strings.TrimSpace(line)
	}
	return string(text)
}

// origin returns the number of the row in the file that it was first refused from.
func (r *Record) origin() int {
	if r.refused > 0 {
		return r.refused
	}
	return r.Number
}

// refusedRow returns the number that a line of a file of refused rows has; 0 for other lines.
func refusedRow(text []byte) int {
	var members struct { // as AppendRefused names them
		Row   json.RawMessage `json:"row"`
		Error *string         `json:"error"`
	}
	if !bytes.HasPrefix(text, []byte(`{"`+memberRow+`"`)) || json.Unmarshal(text, &members) != nil || members.Error == nil {
		return 0
	}
	number, err := strconv.Atoi(string(members.Row))
	if err != nil {
		return 0
	}
	return number
}

// AppendRefused appends a line to a file of refused rows: the row as its source has it, with
// its number and the error. The number of a row that is refused again stays the first one.
// [NewSource] reads such lines. They have the row's secrets.
func (r *Record) AppendRefused(dst []byte, reason error) []byte {
	dst = fmt.Appendf(dst, `{"%s":%d,"%s":%s`, memberRow, r.origin(), memberError, quoteJSON(reason.Error()))
	end := len(dst)
	member := func(name string, value []byte) {
		if name != memberRow && name != memberError {
			dst = append(append(append(append(dst, ','), quoteJSON(name)...), ':'), value...)
		}
	}
	for i, field := range r.fields {
		name := fmt.Sprintf("column %d", i+1) // one more than the header has
		if i < len(r.header) {
			name = r.header[i]
		}
		member(name, quoteJSON(field))
	}
	if r.header != nil {
		return append(dst, '}', '\n')
	}
	err := eachMember([]byte(r.text), func(name string, value json.RawMessage) error {
		member(name, value)
		return nil
	})
	if err != nil { // no JSON object
		dst = dst[:end]
		if r.text != "" {
			member(memberLine, quoteJSON(r.text))
		}
	}
	return append(dst, '}', '\n')
}

// quoteJSON returns s as a JSON string.
func quoteJSON(s string) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil { // a string can always be encoded
		return strconv.AppendQuote(nil, "")
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}
