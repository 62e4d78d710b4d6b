package tests

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// A request whose body cannot be read is the caller's fault, and what follows the body cannot be
// told from it (RFC 9112 section 6.3).
func TestMalformedBodyIsTheCallersFaultAndEndsItsConnection(t *testing.T) {
	t.Parallel()
	s := newRequestScene(t, "")
	const next = "GET /smuggled HTTP/1.1\r\nHost: x\r\nX-Connector: near\r\nX-Apideck-Consumer-Id: victim\r\n\r\n"
	for _, w := range ways {
		s.begin("victim")
		s.importInto(t, "near", "").connection(t)
		for name, body := range map[string]struct {
			lines []string
			text  string
		}{
			"a chunk size that is none": {[]string{"Transfer-Encoding: chunked"}, "5\r\nhello\r\nzz\r\n\r\n"},
			"no chunk size at all":      {[]string{"Transfer-Encoding: chunked"}, "zz\r\n\r\n"},
			"no line end after a chunk": {[]string{"Transfer-Encoding: chunked"}, "5\r\nhelloXX0\r\n\r\n"},
			"a last chunk with data":    {[]string{"Transfer-Encoding: chunked"}, "5\r\nhello\r\n0\r\njunk\r\n\r\n"},
			"a malformed trailer":       {[]string{"Transfer-Encoding: chunked", "Trailer: X-Sum"}, "5\r\nhello\r\n0\r\nX-Sum\r\n\r\n"},
			"a huge chunk size":         {[]string{"Transfer-Encoding: chunked"}, "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"},
			"after 100 Continue":        {[]string{"Transfer-Encoding: chunked", "Expect: 100-continue"}, "5\r\nhello\r\nzz\r\n\r\n"},
		} {
			address, head := w.request(s, "near", http.MethodPost, s.localURL("/asked"), body.lines...)
			answer := sendRaw(t, address, head+"\r\n"+body.text+next)
			if got := statuses(answer); !slices.Equal(got, []int{http.StatusBadRequest}) {
				t.Errorf("%s, %s: got %v, want 400 only: %q", w.name, name, got, answer)
			}
			for _, want := range []string{"\r\nConnection: close\r\n", "\r\nX-Token-Broker-Error: RequestValidationError\r\n"} {
				if !strings.Contains(answer, want) {
					t.Errorf("%s, %s: the response is %q, want it with %q", w.name, name, answer, want)
				}
			}
		}
		address, head := w.request(s, "near", http.MethodPost, s.localURL("/asked"), "Content-Length: 10")
		if answer := sendHalf(t, address, head+"\r\nshort"); !slices.Equal(statuses(answer), []int{http.StatusBadRequest}) {
			t.Errorf("%s, a short body: the response is %q, want 400", w.name, answer)
		}
		for _, line := range s.requestLines() {
			if line != "POST /asked" {
				t.Errorf("%s: downstream got %s", w.name, line)
			}
		}
		// None of it counts against downstream, which is up.
		if got := statuses(s.call(t, w, "near", s.localURL("/well"))); !slices.Equal(got, []int{http.StatusOK}) {
			t.Errorf("%s: the next caller gets %v, want 200", w.name, got)
		}
	}
}

// Downstream may answer before it has read the body. What the caller goes on to send is no
// request, either.
func TestRestOfABodyIsNeverARequest(t *testing.T) {
	t.Parallel()
	s := newRequestScene(t, "")
	for _, w := range ways {
		s.begin("victim")
		s.importInto(t, "near", "").connection(t)
		address, head := w.request(s, "near", http.MethodPost, "http://127.0.0.1:1/refused", "Transfer-Encoding: chunked")
		answer := sendRaw(t, address, head+"\r\n5\r\nhello\r\n0\r\njunk\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if got := statuses(answer); !slices.Equal(got, []int{http.StatusForbidden}) {
			t.Errorf("%s: got %v, want 403 only: %q", w.name, got, answer)
		}
		s.good.wantNone(t)
	}
}

func TestTrailersOfRequestsPassEitherWay(t *testing.T) {
	t.Parallel()
	s := newRequestScene(t, "")
	for _, w := range ways {
		s.begin("jane")
		s.importInto(t, "near", "").connection(t)
		address, head := w.request(s, "near", http.MethodPost, s.localURL("/"), "Connection: close", "Transfer-Encoding: chunked", "Trailer: X-Sum, Cookie, X-Apideck-App-Id")
		answer := sendRaw(t, address, head+"\r\n5\r\nhello\r\n0\r\nX-Sum: 5d41\r\nCookie: a=1\r\nX-Apideck-App-Id: x\r\nX-Undeclared: 1\r\n\r\n")
		if got := statuses(answer); !slices.Equal(got, []int{http.StatusOK}) {
			t.Errorf("%s: the response is %q, want 200", w.name, answer)
		}
		seen := s.good.seen()
		if len(seen) != 1 {
			t.Fatalf("%s: downstream got %v, want one request", w.name, seen)
		}
		if got := seen[0].body; !strings.Contains(got, "X-Sum: 5d41") || strings.Contains(got, "a=1") || strings.Contains(got, "X-Undeclared") {
			t.Errorf("%s: downstream got\n%s\nwant the trailer X-Sum only", w.name, got)
		}
	}
}
