package exchange

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// maxReplayBody is the size, in bytes, up to which request bodies are kept to be sent again.
const maxReplayBody = 64 << 10

// A recordedBody records a request body as it is sent. It does not read ahead, so that
// reverse_proxy can still retry a request whose body was never sent.
type recordedBody struct {
	source  io.ReadCloser
	first   pass
	reading sync.Mutex // held while source is read

	mu     sync.Mutex // net/http may keep reading after the response has arrived
	newest *pass      // guarded by mu; earlier ones have ended
	taken  int        // guarded by mu; bytes read from source
	sent   kept       // guarded by mu; these bytes, none if over
	done   bool       // guarded by mu; the source was read in full
	over   bool       // guarded by mu; the body exceeds maxReplayBody
	closed bool       // guarded by mu; net/http has closed the newest pass
	final  bool       // guarded by mu; the newest pass is the last
}

var (
	errPassEnded = errors.New("the body is closed, or sent again")
	errNotKept   = errors.New("the body is too large to be sent again")
)

// recordBody replaces the body of out with a recorded one, which net/http can send again. It
// returns nil if out has no body.
func recordBody(out *http.Request) *recordedBody {
	if out.Body == nil || out.Body == http.NoBody {
		return nil
	}
	b := &recordedBody{source: out.Body, over: out.ContentLength > maxReplayBody}
	b.first.body, b.newest = b, &b.first
	out.Body = &b.first
	// net/http calls it if downstream has not processed the request: an HTTP/2 server has refused
	// the stream, or a GOAWAY says that it ignores it (RFC 9113 sections 6.8 and 8.7), or the
	// connection was closed before anything was written. It also does for requests that are
	// idempotent by their method or by an Idempotency-Key.
	out.GetBody = b.again
	return b
}

// again ends the newest pass and returns one that begins anew.
func (b *recordedBody) again() (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.taken > 0 && b.over {
		return nil, errNotKept
	}
	b.newest.ended = true
	b.newest, b.closed = &pass{body: b}, false
	return b.newest, nil
}

// end is called when no further pass begins. From then on net/http closes the source.
func (b *recordedBody) end() {
	if b == nil {
		return
	}
	b.mu.Lock()
	b.final = true
	closed := b.closed
	if closed {
		b.sent.discard()
	}
	b.mu.Unlock()
	if closed {
		_ = b.source.Close()
	}
}

// isKept reports whether all that was read so far can be read again.
func (b *recordedBody) isKept() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.taken == 0 || !b.over
}

// repeat makes out send the body from its beginning. It reports whether all of it had been
// read before.
func (b *recordedBody) repeat(out *http.Request) (isWhole bool, err error) {
	if b == nil {
		return true, nil
	}
	b.mu.Lock()
	isWhole = b.done
	b.mu.Unlock()
	pass, err := b.again()
	if err == nil {
		out.Body, out.GetBody = pass, b.again
	}
	return isWhole, err
}

// A pass is a reading of a recorded body from its beginning.
type pass struct {
	body  *recordedBody
	at    int  // guarded by body.reading; how much this pass has read
	ended bool // guarded by body.mu; closed, or another pass has begun
}

// Read implements [io.Reader].
func (p *pass) Read(to []byte) (int, error) {
	b := p.body
	b.reading.Lock() // an earlier pass may still be reading, and record what this one needs
	defer b.reading.Unlock()
	if n, isNext, err := p.recorded(to); !isNext {
		return n, err
	}
	n, err := b.source.Read(to)
	b.mu.Lock()
	defer b.mu.Unlock()
	p.at += n
	b.taken += n
	b.done = b.done || errors.Is(err, io.EOF)
	if b.over = b.over || b.taken > maxReplayBody; b.over {
		b.sent.discard()
	} else {
		b.sent.add(to[:n])
	}
	return n, err
}

// recorded reads what an earlier pass has read. It reports whether to read the source instead.
func (p *pass) recorded(to []byte) (n int, isNext bool, err error) {
	b := p.body
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case p.ended:
		return 0, false, errPassEnded
	case p.at < b.sent.length:
		n = b.sent.copyTo(to, p.at)
		p.at += n
		return n, false, nil
	case p.at < b.taken:
		return 0, false, errNotKept
	case b.done:
		return 0, false, io.EOF
	default:
		return 0, true, nil
	}
}

// Close implements [io.Closer]. The source stays open for another pass.
func (p *pass) Close() error {
	b := p.body
	b.mu.Lock()
	p.ended = true
	isLast := b.newest == p
	b.closed = b.closed || isLast
	closes := isLast && b.final
	if closes {
		b.sent.discard()
	}
	b.mu.Unlock()
	if closes {
		return b.source.Close()
	}
	return nil
}
