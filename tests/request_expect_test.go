package tests

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// A caller that waits for 100 Continue gets an error of the broker at once, and sends no body.
func TestCallerThatExpectsToContinueIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	s := newRequestScene(t, "")
	for _, w := range ways {
		s.begin("unknown")
		for _, framing := range []string{"Content-Length: 5", "Transfer-Encoding: chunked"} {
			address, head := w.request(s, "near", http.MethodPost, s.localURL("/"), "Expect: 100-continue", framing)
			answer := sendAndAwait(t, address, head+"\r\n")
			s.wantRefused(t, answer, http.StatusNotFound)
			if !strings.Contains(answer, "\r\nConnection: close\r\n") || strings.Contains(answer, " 100 Continue") {
				t.Errorf("%s, %s: the response is %q, want it to end the connection", w.name, framing, answer)
			}
		}
	}
}

// sendAndAwait writes a request and returns the first response. It does not wait for the end of
// the connection: the server would go on waiting for the body.
func sendAndAwait(t testing.TB, address, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(waitTimeout))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	var answer strings.Builder
	resp, err := http.ReadResponse(bufio.NewReader(io.TeeReader(conn, &answer)), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return answer.String()
}

// An h2Caller sends frames of its choice to a listener of the broker.
type h2Caller struct {
	*http2.Framer
	conn net.Conn
}

func newH2Caller(t testing.TB, address string) *h2Caller {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(waitTimeout))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	c := &h2Caller{http2.NewFramer(conn, conn), conn}
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := c.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

// begin sends the header of a POST.
func (c *h2Caller) begin(t testing.TB, stream uint32, head string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(head, "\r\n"), "\r\n")
	parts := strings.Fields(lines[0])
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	fields := []hpack.HeaderField{{Name: ":method", Value: parts[0]}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: parts[1]}}
	var rest []hpack.HeaderField
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Host" {
			fields = append(fields, hpack.HeaderField{Name: ":authority", Value: value})
		} else {
			rest = append(rest, hpack.HeaderField{Name: strings.ToLower(name), Value: value})
		}
	}
	for _, field := range append(fields, rest...) {
		if err := encoder.WriteField(field); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
}

// status returns the status of a stream's response, or how it was reset.
func (c *h2Caller) status(t testing.TB, stream uint32) string {
	t.Helper()
	for {
		frame, err := c.ReadFrame()
		if err != nil {
			return err.Error()
		}
		if frame.Header().StreamID != stream {
			continue
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if status := frame.PseudoValue("status"); status[0] != '1' {
				return status
			}
		case *http2.RSTStreamFrame:
			return frame.ErrCode.String()
		}
	}
}

// Callers of HTTP/2 that end their bodies early, or take them back, are not downstream's fault
// either. Their other requests go on.
func TestBrokenBodyOverHTTP2IsTheCallersFault(t *testing.T) {
	t.Parallel()
	downstream := newNumberingServer(t)
	p := newDeployment(t, oauthserver.Config{}).onDisk().startWays(t, wayOptions{
		global: "servers {\nprotocols h1 h2c\n}", base: downstream.URL, upstream: downstream.URL,
	})
	s := &attackScene{process: p, consumer: "jane"}
	s.importInto(t, "near", "").connection(t)
	for _, w := range ways {
		address, head := w.request(s, "near", http.MethodPost, downstream.URL+"/", "Content-Length: 10")
		c := newH2Caller(t, address)
		c.begin(t, 1, head)
		if err := c.WriteData(1, true, []byte("short")); err != nil {
			t.Fatal(err)
		}
		if got := c.status(t, 1); got != "400" && got != http2.ErrCodeProtocol.String() {
			t.Errorf("%s: a short body gets %s, want 400", w.name, got)
		}
		c.begin(t, 3, head)
		if err := c.WriteData(3, false, []byte("short")); err != nil {
			t.Fatal(err)
		}
		if err := c.WriteRSTStream(3, http2.ErrCodeCancel); err != nil {
			t.Fatal(err)
		}
		c.begin(t, 5, head)
		if err := c.WriteData(5, true, []byte("complete!!")); err != nil {
			t.Fatal(err)
		}
		if got := c.status(t, 5); got != "200" {
			t.Errorf("%s: the next request gets %s, want 200", w.name, got)
		}
		if answer := s.call(t, w, "near", downstream.URL+"/"); !slices.Equal(statuses(answer), []int{http.StatusOK}) {
			t.Errorf("%s: the next caller gets %q, want 200", w.name, fmt.Sprintf("%.300s", answer))
		}
	}
}
