package transfer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
)

// maxLine bounds a line of a file, in bytes: the body of an import, and the names beside it.
const maxLine = apideck.MaxBody + 64<<10

// A LineError is about one line of a file. The lines after it can be read.
type LineError struct {
	Line int // counts from 1
	Err  error
}

// Error implements error.
func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap returns the cause.
func (e *LineError) Unwrap() error { return e.Err }

var errLongLine = fmt.Errorf("is longer than %d bytes", maxLine)

// lines reads lines of bounded length. It skips empty ones, a byte order mark, and the CR of
// line ends.
type lines struct {
	in   *bufio.Reader
	buf  []byte
	line int // of the last line read; counts from 1
}

func newLines(r io.Reader) *lines {
	return &lines{in: bufio.NewReaderSize(r, 64<<10)}
}

// next returns the next line that is not empty. It is valid until the next call. The error is
// a [*LineError] if only that line is at fault, and [io.EOF] at the end.
func (l *lines) next() ([]byte, error) {
	for {
		text, err := l.read()
		if err != nil {
			return nil, err
		}
		if l.line == 1 {
			text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
		}
		if text = bytes.TrimSpace(text); len(text) > 0 {
			return text, nil
		}
	}
}

// read returns the next line.
func (l *lines) read() ([]byte, error) {
	l.buf = l.buf[:0]
	length := 0
	for {
		part, err := l.in.ReadSlice('\n')
		if length += len(part); length <= maxLine {
			l.buf = append(l.buf, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && (!errors.Is(err, io.EOF) || length == 0):
			return nil, err
		}
		l.line++
		if length > maxLine {
			return nil, &LineError{Line: l.line, Err: errLongLine}
		}
		return l.buf, nil
	}
}
