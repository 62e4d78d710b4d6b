package exchange

import (
	"bytes"
	"io"
	"log"
	"sync"
)

// net/http has a line of log that quotes what a server sends on a connection where nothing
// is due, such as a body after the response to HEAD: up to 4 KiB of downstream's, who may
// well send back the credential that it got. It cannot be switched off, and it goes to the
// log of the standard library, which Caddy redirects to its own.
var unsolicited = []byte("Unsolicited response received on idle HTTP channel")

const unsolicitedInstead = "Unsolicited response received on idle HTTP channel; it is not shown, since it can have a credential in it\n"

// A quietWriter writes the standard library's log without what downstream has sent.
type quietWriter struct{ io.Writer }

// Write implements [io.Writer]; p is one entry of the log.
func (w quietWriter) Write(p []byte) (int, error) {
	if !bytes.Contains(p, unsolicited) {
		return w.Writer.Write(p)
	}
	if _, err := io.WriteString(w.Writer, unsolicitedInstead); err != nil {
		return 0, err
	}
	return len(p), nil
}

var quieting sync.Mutex // so that one writer is put in front once

// quietNetHTTP sees to it that the standard library's log does not quote downstream. It
// is called for each connection to one, since a configuration can redirect that log anew.
func quietNetHTTP() {
	quieting.Lock()
	defer quieting.Unlock()
	if w := log.Writer(); !isQuiet(w) {
		log.SetOutput(quietWriter{w})
	}
}

func isQuiet(w io.Writer) bool {
	_, ok := w.(quietWriter)
	return ok
}
