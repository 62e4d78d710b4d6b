package exchange

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

// A closableBody is a body that counts how often it is closed.
type closableBody struct {
	io.Reader
	closed int
}

func (b *closableBody) Close() error {
	b.closed++
	return nil
}

// record returns a request with a recorded body of the length, -1 if it is unknown.
func record(t *testing.T, content io.Reader, length int64) (*http.Request, *recordedBody, *closableBody) {
	t.Helper()
	source := &closableBody{Reader: content}
	req, err := http.NewRequest(http.MethodPost, "https://api.acme.test/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Body, req.ContentLength = source, length
	return req, recordBody(req), source
}

func TestBodyIsReadAgainFromItsBeginning(t *testing.T) {
	t.Parallel()
	const text = "the body of a request"
	for _, read := range []int{0, 1, 8, len(text)} {
		req, body, source := record(t, iotest.OneByteReader(strings.NewReader(text)), -1)
		if _, err := io.ReadFull(req.Body, make([]byte, read)); err != nil {
			t.Fatal(err)
		}
		first := req.Body
		for range 3 { // as often as net/http tries
			_ = req.Body.Close()
			var err error
			if req.Body, err = req.GetBody(); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := first.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("after %d bytes: the attempt before still reads", read)
		}
		if got, err := io.ReadAll(req.Body); string(got) != text || err != nil {
			t.Errorf("after %d bytes: got %q, %v", read, got, err)
		}
		if !body.isKept() || !body.done {
			t.Errorf("after %d bytes: the body was not recorded", read)
		}
		if source.closed > 0 {
			t.Error("the caller's body was closed before the end of the exchange")
		}
		_ = req.Body.Close()
		body.end()
		if source.closed != 1 {
			t.Errorf("the caller's body was closed %d times, want once", source.closed)
		}
	}
}

func TestLargeBodyIsSentAgainOnlyIfItWasNotBegun(t *testing.T) {
	t.Parallel()
	large := bytes.Repeat([]byte("x"), maxReplayBody+1)
	for _, length := range []int64{-1, int64(len(large))} {
		req, _, _ := record(t, bytes.NewReader(large), length)
		again, err := req.GetBody()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(again); !bytes.Equal(got, large) || err != nil {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		if _, err := req.GetBody(); err == nil {
			t.Error("it can be sent again, though it was not kept")
		}
	}
}

// An attempt that was given up can still be waiting for the caller, and then reads what the next
// attempt needs.
func TestWhatAnAttemptReadsLateIsNotLost(t *testing.T) {
	t.Parallel()
	caller, writer := io.Pipe()
	req, body, _ := record(t, caller, -1)
	late := make(chan struct{})
	go func(first io.Reader) {
		defer close(late)
		_, _ = first.Read(make([]byte, 3))
	}(req.Body)
	if _, err := io.WriteString(writer, "abc"); err != nil { // returns when the first attempt has read it
		t.Fatal(err)
	}
	<-late
	again, err := req.GetBody()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.WriteString(writer, "def")
		_ = writer.Close()
	}()
	if got, err := io.ReadAll(again); string(got) != "abcdef" || err != nil {
		t.Errorf("got %q, %v, want abcdef", got, err)
	}
	if !body.isKept() || !body.done {
		t.Error("the body was not recorded in full")
	}
}

func TestBodyThatCannotBeReadFailsEachTime(t *testing.T) {
	t.Parallel()
	broken := errors.New("malformed chunk")
	req, body, _ := record(t, io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(broken)), -1)
	for range 2 {
		if got, err := io.ReadAll(req.Body); string(got) != "abc" || !errors.Is(err, broken) {
			t.Errorf("got %q, %v, want abc and the error", got, err)
		}
		var err error
		if req.Body, err = req.GetBody(); err != nil {
			t.Fatal(err)
		}
	}
	if body.done {
		t.Error("a part counts as the whole")
	}
}

func BenchmarkRecordedBody(b *testing.B) {
	content := bytes.Repeat([]byte("x"), 16<<10)
	for b.Loop() {
		req := &http.Request{Body: io.NopCloser(bytes.NewReader(content)), ContentLength: int64(len(content))}
		body := recordBody(req)
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			b.Fatal(err)
		}
		_ = req.Body.Close()
		body.end()
	}
}
