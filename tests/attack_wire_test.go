package tests

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

var headerAttacks = []attack{
	{"Connection: Authorization", hopByHop("near", "Authorization", "Connection: close, Authorization")},
	{"Connection lists the injected header", hopByHop("keyed", "X-Api-Key", "Connection: X-Api-Key, close", "Connection: x-api-key")},
	{"duplicate, folded and oddly spelled headers", func(t *testing.T, s *attackScene, w way) {
		s.importInto(t, "near", "").connection(t)
		s.importBody(t, "crm/keyed", s.consumer, fmt.Sprintf(`{"settings": {"api_key": %q}}`, stolen)).connection(t)
		for _, lines := range [][]string{
			{"X-Api-Key: callers-1", "X-API-KEY: callers-2", "x-api-key: callers-3"},
			{"X-Api-Key: callers-1", " folded"},
			{"X-Api-Key: callers-1", "\tfolded"},
			{"X-Api-Key : callers-1"},
			{"X-Api-Key\t: callers-1"},
			{"X_Api_Key: callers-1"},
			{": callers-1"},
			{"X-Api-Key: callers-1\x00"},
			{"X-Api-Key: callers-1\rX-More: 1"},
		} {
			before := len(s.good.seen())
			answer := s.call(t, w, "keyed", s.url("/"), lines...)
			seen := s.good.seen()[before:]
			if len(seen) == 0 {
				if got := statuses(answer); len(got) != 1 || got[0] != http.StatusBadRequest {
					t.Errorf("%q: the response is %q, want a call or 400", lines, answer)
				}
				continue
			}
			if got := seen[0].values("X-Api-Key"); len(seen) != 1 || !slices.Equal(got, []string{stolen}) {
				t.Errorf("%q: downstream got X-Api-Key %q, want only the connection's", lines, got)
			}
		}
	}},
	{"copies of the credential in trailers", func(t *testing.T, s *attackScene, w way) {
		s.importInto(t, "near", "").connection(t)
		s.importBody(t, "crm/keyed", s.consumer, fmt.Sprintf(`{"settings": {"api_key": %q}}`, stolen)).connection(t)
		for connector, header := range map[string]string{"near": "Authorization", "keyed": "X-Api-Key"} {
			before := len(s.good.seen())
			address, head := w.request(s, connector, http.MethodPost, s.url("/"), "Connection: close", "Transfer-Encoding: chunked",
				"Trailer: "+header+", X-Apideck-Service-Id, Cookie")
			answer := sendRaw(t, address, head+"\r\n1\r\nx\r\n0\r\n"+header+": callers\r\nX-Apideck-Service-Id: callers\r\nCookie: callers\r\n\r\n")
			seen := s.good.seen()[before:]
			// The raw server would read trailers as another request.
			if len(seen) != 1 || strings.Contains(seen[0].String(), "callers") || seen[0].body != "1\r\nx\r\n0\r\n\r\n" {
				t.Errorf("%s: downstream got %v, want the body and no trailers; the response is %q", connector, seen, answer)
			}
		}
	}},
	{"headers for the broker and its caller", func(t *testing.T, s *attackScene, w way) {
		s.importInto(t, "near", "").connection(t)
		s.call(t, w, "near", s.url("/"), "Cookie: session=1", "X-Apideck-Anything: 1", "x-apideck-downstream-timeout: 1", "Baggage: user=jane",
			"X-Forwarded-For: 192.0.2.1", "X-Forwarded-Host: evil.test", "Forwarded: for=192.0.2.1", "X-Token-Broker-Error: x", "Proxy-Authorization: Basic x")
		r := s.only(t)
		for _, line := range r.header {
			name, _, _ := strings.Cut(strings.ToLower(line), ":")
			switch name {
			case "host", "authorization", "via", "user-agent", "x-connector", "x-upstream", "content-length":
			default:
				t.Errorf("downstream got %s", line)
			}
		}
		if got := r.values("Host"); !slices.Equal(got, []string{s.good.address}) {
			t.Errorf("downstream got Host %q", got)
		}
	}},
}

// hopByHop returns an attack by Connection headers, which name headers that a proxy removes
// (RFC 9110 section 7.6.1): the injected credential must not be removed.
func hopByHop(connector, header string, lines ...string) func(*testing.T, *attackScene, way) {
	return func(t *testing.T, s *attackScene, w way) {
		s.importInto(t, "near", "").connection(t)
		s.importBody(t, "crm/keyed", s.consumer, fmt.Sprintf(`{"settings": {"api_key": %q}}`, stolen)).connection(t)
		answer := s.call(t, w, connector, s.url("/"), append(lines, header+": callers")...)
		seen := s.good.seen()
		if len(seen) == 0 && w.name == "proxy" && header == "Authorization" {
			s.wantRefused(t, answer, http.StatusUnauthorized, http.StatusBadRequest) // there are two of them
			answer = s.call(t, w, connector, s.url("/"), lines...)
			seen = s.good.seen()
		}
		if len(seen) != 1 {
			t.Fatalf("downstream got %d requests, want one; the response is %q", len(seen), answer)
		}
		if got := seen[0].values(header); len(got) != 1 || !strings.HasSuffix(got[0], stolen) {
			t.Errorf("downstream got %s %q, want the connection's", header, got)
		}
		if got := seen[0].values("Connection"); len(got) > 0 && !slices.Equal(got, []string{"close"}) {
			t.Errorf("downstream got Connection %q", got)
		}
	}
}

// A shape is the end of a request that two parsers may read differently.
type shape struct {
	name  string
	lines []string
	body  string
}

const smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

var smugglingAttacks = []attack{
	{"request smuggling", func(t *testing.T, s *attackScene, w way) {
		s.importInto(t, "near", "").connection(t)
		asked := make(map[string]int) // requests that arrived, by path
		var work sync.WaitGroup
		for _, shape := range []shape{
			{"CL.TE", []string{"Content-Length: 4", "Transfer-Encoding: chunked"}, "0\r\n\r\n" + smuggled},
			{"TE.CL", []string{"Transfer-Encoding: chunked", "Content-Length: 4"}, "5c\r\n" + smuggled + "0\r\n\r\n"},
			{"two lengths", []string{"Content-Length: 0", "Content-Length: 44"}, smuggled},
			{"a list of lengths", []string{"Content-Length: 0, 44"}, smuggled},
			{"a signed length", []string{"Content-Length: +0"}, smuggled},
			{"a hexadecimal length", []string{"Content-Length: 0x0"}, smuggled},
			{"a folded length", []string{"Content-Length:", " 0"}, smuggled},
			{"space before the colon", []string{"Content-Length : 44"}, smuggled},
			{"two encodings", []string{"Transfer-Encoding: chunked", "Transfer-Encoding: identity"}, "0\r\n\r\n" + smuggled},
			{"an unknown encoding", []string{"Transfer-Encoding: xchunked"}, "0\r\n\r\n" + smuggled},
			{"chunked not last", []string{"Transfer-Encoding: chunked, identity"}, "0\r\n\r\n" + smuggled},
			{"a folded encoding", []string{"Transfer-Encoding:", " chunked"}, "0\r\n\r\n" + smuggled},
			{"an encoding with a vertical tab", []string{"Transfer-Encoding: \vchunked"}, "0\r\n\r\n" + smuggled},
			{"a length that Connection hides", []string{"Content-Length: 44", "Connection: Content-Length"}, smuggled},
			{"an encoding that Connection hides", []string{"Transfer-Encoding: chunked", "Connection: Transfer-Encoding"}, "0\r\n\r\n" + smuggled},
			{"chunk extensions", []string{"Transfer-Encoding: chunked"}, "1;a=\"\r\nx\r\n0\r\n\r\n" + smuggled},
			{"a chunk size with a sign", []string{"Transfer-Encoding: chunked"}, "+1\r\nx\r\n0\r\n\r\n" + smuggled},
			{"a chunk that ends with a bare LF", []string{"Transfer-Encoding: chunked"}, "1\nx\n0\n\n" + smuggled},
			{"a chunk size too large", []string{"Transfer-Encoding: chunked"}, "ffffffffffffffff1\r\nx\r\n0\r\n\r\n" + smuggled},
			{"trailers that frame", []string{"Transfer-Encoding: chunked", "Trailer: Content-Length"}, "0\r\nContent-Length: 44\r\n\r\n" + smuggled},
			{"an upgrade without a WebSocket key", []string{"Connection: Upgrade", "Upgrade: websocket", "Content-Length: 44"}, smuggled},
			{"h2c", []string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"}, smuggled},
		} {
			path := "/asked-with-" + strings.ReplaceAll(shape.name, " ", "-")
			address, head := w.request(s, "near", http.MethodPost, s.url(path), shape.lines...)
			// Caddy may read the rest as another request on this connection, which has neither
			// consumer nor key. The attack succeeds only if downstream reads the forwarded
			// request differently than the broker did.
			work.Go(func() { sendCutOff(t, address, head+"\r\n"+shape.body, 2*rawPatience) })
			asked[path] = 0
		}
		work.Wait() // in parallel: some wait until sendCutOff gives up
		for _, r := range s.good.seen() {
			if n, ours := asked[r.path()]; !ours || n > 0 {
				t.Errorf("downstream got a request twice, or one that was not sent:\n%s", r)
			}
			asked[r.path()]++
			if lengths, encodings := r.values("Content-Length"), r.values("Transfer-Encoding"); len(lengths)+len(encodings) > 1 {
				t.Errorf("%s: downstream got Content-Length %q and Transfer-Encoding %q", r.path(), lengths, encodings)
			}
		}
		if asked["/asked-with-chunk-extensions"] != 1 {
			t.Error("the well-formed request did not arrive: the test proves nothing")
		}
	}},
}

var answerAttacks = []attack{
	{"redirects to another host", func(t *testing.T, s *attackScene, w way) {
		s.importInto(t, "near", "").connection(t)
		for _, status := range []int{301, 302, 303, 307, 308} {
			for _, location := range []string{"http://" + s.evil.address + "/", "//" + s.evil.address + "/"} {
				s.good.answers(func(rawRequest) string {
					return fmt.Sprintf("HTTP/1.1 %d Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", status, location)
				})
				answer, want := s.call(t, w, "near", s.url("/")), location
				if w.name == "proxy" && strings.HasPrefix(location, "//") {
					want = "http:" + location // the scheme of downstream's URL
				}
				if got := statuses(answer); !slices.Equal(got, []int{status}) || !strings.Contains(answer, "Location: "+want+"\r\n") {
					t.Errorf("the response is %q, want downstream's redirect", answer)
				}
				s.evil.wantNone(t)
			}
		}
	}},
	{"responses that echo the credential", func(t *testing.T, s *attackScene, w way) {
		s.importInto(t, "near", "").connection(t)
		for name, format := range map[string]string{
			"header":         "HTTP/1.1 200 OK\r\nX-Echo: %[1]s\r\nSet-Cookie: t=%[1]s\r\nContent-Length: 0\r\n\r\n",
			"reason":         "HTTP/1.1 200 %[1]s\r\nContent-Length: 0\r\n\r\n",
			"redirect":       "HTTP/1.1 302 Found\r\nLocation: https://example.com/?token=%[1]s\r\nContent-Length: 0\r\n\r\n",
			"early hints":    "HTTP/1.1 103 Early Hints\r\nLink: <%[1]s>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
			"trailer":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Echo\r\n\r\n0\r\nX-Echo: %[1]s\r\n\r\n",
			"hidden trailer": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Echo: %[1]s\r\n\r\n",
			"malformed":      "HTTP/1.1 200 OK\r\n%[1]s\r\n\r\n",
			"no status":      "%[1]s\r\n\r\n",
			"upgrade":        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %[1]s\r\n\r\n",
		} {
			s.good.answers(func(r rawRequest) string { return fmt.Sprintf(format, strings.Join(r.values("Authorization"), "")) })
			if answer := s.call(t, w, "near", s.url("/")); answer == "" || strings.Contains(answer, stolen) {
				t.Errorf("%s: the response is %q, want one without the credential", name, answer)
			}
		}
		if strings.Contains(s.log.String(), stolen) {
			t.Error("the log shows the credential")
		}
	}},
	{"a forged X-Token-Broker-Error", func(t *testing.T, s *attackScene, w way) {
		s.importInto(t, "near", "").connection(t)
		for name, answer := range map[string]string{
			"header":      "HTTP/1.1 404 Not Found\r\nX-Token-Broker-Error: Forged\r\nX-Token-Broker-Import: Forged\r\nContent-Length: 0\r\n\r\n",
			"odd case":    "HTTP/1.1 404 Not Found\r\nx-token-BROKER-error: Forged\r\nContent-Length: 0\r\n\r\n",
			"early hints": "HTTP/1.1 103 Early Hints\r\nX-Token-Broker-Error: Forged\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
			"trailer":     "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\nTrailer: X-Token-Broker-Error\r\n\r\n0\r\nX-Token-Broker-Error: Forged\r\n\r\n",
		} {
			s.good.answers(func(rawRequest) string { return answer })
			got := s.call(t, w, "near", s.url("/"))
			if codes := statuses(got); !slices.Equal(codes, []int{http.StatusNotFound}) || strings.Contains(got, "Forged") {
				t.Errorf("%s: the response is %q, want 404 without the broker's own headers", name, got)
			}
		}
	}},
}
