package transfer

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// A csvReader reads the rows of a CSV file (RFC 4180). The separator is a comma, or a tab or
// semicolon if the header has more of those.
type csvReader struct {
	in     *csv.Reader
	bound  *boundedReader
	header []string
	folded map[string]string // names of the header by their folded form
}

// newCSV reads the header.
func newCSV(in *bufio.Reader) (*csvReader, error) {
	if mark, _ := in.Peek(3); bytes.Equal(mark, []byte("\xef\xbb\xbf")) {
		_, _ = in.Discard(3) // they were peeked
	}
	start, _ := in.Peek(4 << 10) // a short file has less
	first, _, _ := bytes.Cut(start, []byte("\n"))
	bound := &boundedReader{in: in}
	c := &csvReader{in: csv.NewReader(bound), bound: bound}
	for _, separator := range "\t;" {
		if strings.Count(string(first), string(separator)) > strings.Count(string(first), string(c.in.Comma)) {
			c.in.Comma = separator
		}
	}
	header, line, err := c.next()
	if err != nil {
		return nil, fmt.Errorf("the header of the CSV file: %w", err)
	}
	seen := make(map[string]bool, len(header))
	for i, name := range header {
		if name == "" {
			return nil, fmt.Errorf("line %d: column %d of the header has no name: the first line must name the columns", line, i+1)
		}
		if seen[name] {
			return nil, fmt.Errorf("line %d: the header has the column %s twice", line, quoteName(name))
		}
		seen[name] = true
	}
	c.header, c.folded = header, foldAll(slices.Values(header))
	return c, nil
}

// next returns the fields of the next row, and the line on which it begins.
func (c *csvReader) next() ([]string, int, error) {
	c.bound.left = maxLine
	fields, err := c.in.Read()
	line := 0
	if len(fields) > 0 {
		line, _ = c.in.FieldPos(0)
	}
	if parse, ok := errors.AsType[*csv.ParseError](err); ok {
		return fields, parse.StartLine, &LineError{Line: parse.StartLine, Err: c.explain(parse, len(fields))}
	}
	if err != nil {
		return nil, 0, err
	}
	for _, field := range fields {
		if !utf8.ValidString(field) {
			return nil, line, &LineError{Line: line, Err: errors.New("is not valid UTF-8")}
		}
	}
	return fields, line, nil
}

func (c *csvReader) explain(err *csv.ParseError, fields int) error {
	if errors.Is(err, csv.ErrFieldCount) {
		return fmt.Errorf("has %d columns, and the header %d", fields, len(c.header))
	}
	return fmt.Errorf("is not valid CSV: %w", err.Err)
}

// A boundedReader fails when one row has more bytes than a row may have. Without it a quote
// that is never closed makes the rest of the file one field.
type boundedReader struct {
	in   io.Reader
	left int
}

// Read implements [io.Reader].
func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("a row %w: a quote may be missing", errLongLine)
	}
	n, err := b.in.Read(p)
	b.left -= n
	return n, err
}
