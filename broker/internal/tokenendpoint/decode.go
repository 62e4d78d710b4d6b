package tokenendpoint

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"strings"
)

// maxCodings bounds how often a body is decompressed.
const maxCodings = 3

// decode undoes the content coding of a body (RFC 9110 section 8.4.1). Requests ask for none,
// but some servers compress anyway, and some proxies decompress and keep the header. So decode
// recognises gzip by its first bytes, and returns a body that does not match the header as it is.
// It returns at most maxResponse+1 bytes; with an error, those before it.
func decode(coding string, body []byte) ([]byte, error) {
	if strings.Contains(strings.ToLower(coding), "deflate") {
		return inflate(body)
	}
	for range maxCodings {
		if !bytes.HasPrefix(body, []byte("\x1f\x8b")) {
			break
		}
		r, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		if body, err = readBounded(r); err != nil {
			return body, err
		}
	}
	return body, nil
}

// inflate decodes the coding deflate, which is zlib (RFC 1950). Some servers send bare deflate
// (RFC 1951).
func inflate(body []byte) ([]byte, error) {
	if r, err := zlib.NewReader(bytes.NewReader(body)); err == nil {
		return readBounded(r)
	}
	if inflated, err := readBounded(flate.NewReader(bytes.NewReader(body))); err == nil {
		return inflated, nil
	}
	return body, nil
}

func readBounded(r io.Reader) ([]byte, error) { return io.ReadAll(io.LimitReader(r, maxResponse+1)) }
