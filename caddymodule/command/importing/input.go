package importing

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/sealed"
)

// An input is the opened file.
type input struct {
	io.Reader
	file *os.File     // nil for standard input
	size int64        // in bytes; 0 if unknown, as for a pipe
	read atomic.Int64 // bytes of the file, before decryption
}

// openInput opens the file, and decrypts it if age has encrypted it.
func openInput(o *Options) (*input, error) {
	in := &input{}
	raw := o.Input
	if o.Path != "-" {
		file, info, err := sealed.Open(o.Path, o.Err)
		if err != nil {
			return nil, err
		}
		in.file, raw = file, file
		if o.stream = !info.Mode().IsRegular(); !o.stream {
			in.size = info.Size()
		}
		if results, err := os.Stat(o.results()); err == nil && os.SameFile(info, results) {
			in.close()
			return nil, errors.New("--results must not be the file that is imported")
		}
		if (stateFile{statePath(o.Path)}).exists() {
			in.close()
			return nil, fmt.Errorf("%s has the refused rows of an import that was interrupted, and %s says how far it was: finish that import first",
				o.Path, statePath(o.Path))
		}
	}
	plain, err := o.Keys.Decrypt(bufio.NewReaderSize(&countedReader{raw, &in.read}, 64<<10), o.Path)
	if err != nil {
		in.close()
		return nil, err
	}
	in.Reader = plain
	return in, nil
}

func (in *input) close() {
	if in.file != nil {
		_ = in.file.Close() // opened for reading
	}
}

// A countedReader counts the bytes that are read.
type countedReader struct {
	in    io.Reader
	count *atomic.Int64
}

// Read implements [io.Reader].
func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.count.Add(int64(n))
	return n, err
}

// A fingerprint tells whether an import that was interrupted is the same as this one.
type fingerprint struct {
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	Start    string    `json:"start"`   // SHA-256 of the first bytes
	Options  string    `json:"options"` // SHA-256 of what changes the meaning of rows
}

func newFingerprint(in *input, o *Options) (fingerprint, error) {
	info, err := in.file.Stat()
	if err != nil {
		return fingerprint{}, err
	}
	start := make([]byte, 64<<10)
	n, err := in.file.ReadAt(start, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fingerprint{}, err
	}
	sum := sha256.Sum256(start[:n])
	c := &o.Convert
	options := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %v %q %v %v %v", o.Target, o.Application, c.Format, c.Map, c.Connectors, c.Consumer,
		c.Zone, o.Standby, o.Check.MinLifetime))
	return fingerprint{
		Size: info.Size(), Modified: info.ModTime().UTC(),
		Start: hex.EncodeToString(sum[:]), Options: hex.EncodeToString(options[:]),
	}, nil
}
