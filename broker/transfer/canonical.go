package transfer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
)

// A Reader reads canonical rows, one JSON object a line.
type Reader struct {
	lines *lines
}

// NewReader returns a reader of the rows in r.
func NewReader(r io.Reader) *Reader { return &Reader{lines: newLines(r)} }

// Read returns the next row. The error is [io.EOF] at the end, and a [*LineError] if only one
// line is at fault: the next call reads the line after it.
func (r *Reader) Read() (*Row, error) {
	text, err := r.lines.next()
	if err != nil {
		return nil, err
	}
	row, err := ParseRow(text)
	if err != nil {
		return nil, &LineError{Line: r.lines.line, Err: err}
	}
	return row, nil
}

// Line returns the number of the line that Read read last. It counts from 1.
func (r *Reader) Line() int { return r.lines.line }

// rowMembers are the members of a canonical row. The parser of imports knows those below
// credentials.
const rowMembers = "app, consumer_id, unified_api, service_id, credentials, settings, metadata"

// ParseRow parses a canonical row: strict JSON. Unknown and repeated members are errors. The
// members error and row, which a file of refused rows has, are ignored.
func ParseRow(text []byte) (*Row, error) {
	row, _, err := parseRow(text)
	return row, err
}

// parseRow is ParseRow. isPlain says that the row has none of the members that are ignored.
func parseRow(text []byte) (row *Row, isPlain bool, err error) {
	row, isPlain = &Row{}, true
	body := make([]byte, 0, len(text)+2) // of the import
	err = eachMember(text, func(name string, value json.RawMessage) error {
		switch name {
		case "app":
			return stringInto(&row.App, name, value)
		case "unified_api":
			return stringInto(&row.Connector.UnifiedAPI, name, value)
		case "service_id":
			return stringInto(&row.Connector.ServiceID, name, value)
		case "consumer_id", "credentials", "settings", "metadata":
			body = append(append(append(body, `,"`...), name...), `":`...)
			body = append(body, value...)
			return nil
		case memberError, memberRow:
			isPlain = false
			return nil
		default:
			return fmt.Errorf("%s is not a known member: known are %s", quoteName(name), rowMembers)
		}
	})
	if err != nil {
		return nil, false, err
	}
	if len(body) == 0 {
		body = append(body, ' ')
	}
	body[0] = '{' // in place of the first comma
	imp, err := apideck.ParseValidImport(append(body, '}'))
	if err != nil {
		return nil, false, err
	}
	row.Import = *imp
	return row, isPlain, row.Validate()
}

// eachMember calls f for each member of the JSON object in text. A repeated member is an
// error. Errors do not quote values.
func eachMember(text []byte, f func(name string, value json.RawMessage) error) error {
	if !utf8.Valid(text) {
		return malformed("is not valid UTF-8")
	}
	if !json.Valid(text) || bytes.TrimLeft(text, " \t\r\n")[0] != '{' {
		return eachDecoded(text, f)
	}
	seen := make(map[string]bool, 8)
	for name, value := range apideck.Members(text) {
		if seen[name] {
			return fmt.Errorf("%s is there twice", quoteName(name))
		}
		seen[name] = true
		if err := f(name, value); err != nil {
			return err
		}
	}
	return nil
}

// eachDecoded is eachMember by a decoder, which says what is wrong, and where.
func eachDecoded(text []byte, f func(name string, value json.RawMessage) error) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if token, err := dec.Token(); err != nil {
		return syntaxError(err)
	} else if token != json.Delim('{') {
		return malformed("is not a JSON object")
	}
	seen := make(map[string]bool, 8)
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return syntaxError(err)
		}
		name, _ := token.(string) // the decoder refuses other keys
		if seen[name] {
			return fmt.Errorf("%s is there twice", quoteName(name))
		}
		seen[name] = true
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return syntaxError(err)
		}
		if err := f(name, value); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return syntaxError(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return malformed("has data after the JSON object")
	}
	return nil
}

// A malformed is the error of a line that is no JSON object.
type malformed string

// Error implements error.
func (m malformed) Error() string { return string(m) }

// syntaxError returns an error without the decoder's text, which can quote the line.
func syntaxError(err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return malformed(fmt.Sprintf("is not valid JSON near byte %d", syntax.Offset))
	}
	return malformed("is not valid JSON: it ends too early")
}

func stringInto(dst *string, name string, value json.RawMessage) error {
	if string(value) == "null" {
		return nil
	}
	if value[0] != '"' || json.Unmarshal(value, dst) != nil {
		return fmt.Errorf("%s must be a string", name)
	}
	return nil
}

// quoteName quotes and truncates the name of a member or column, so that an error does not
// repeat a secret that is in its place.
func quoteName(name string) string {
	const most = 40
	if len(name) > most {
		name = strings.ToValidUTF8(name[:most], "") + "..."
	}
	return strconv.Quote(name)
}

// A Writer writes canonical rows, one JSON object a line, with their secrets.
type Writer struct {
	out io.Writer
	buf []byte
}

// NewWriter returns a writer of rows to w. It does not buffer.
func NewWriter(w io.Writer) *Writer { return &Writer{out: w} }

// Write writes a row.
func (w *Writer) Write(row *Row) error {
	if err := row.Validate(); err != nil {
		return err
	}
	var err error
	if w.buf, err = row.AppendJSON(w.buf[:0]); err != nil {
		return err
	}
	w.buf = append(w.buf, '\n')
	_, err = w.out.Write(w.buf)
	return err
}
