package tests

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// Services choose a tenant by Host, so it must be the name that was checked, and in its one
// spelling, whatever a placeholder holds.
func TestHostThatIsSentIsTheOneThatWasChecked(t *testing.T) {
	t.Parallel()
	s := newRequestScene(t, "")
	port := portOf(s.good.address)
	for _, w := range ways {
		s.begin("jane")
		s.importInto(t, "near", "").connection(t)
		for _, host := range []string{
			"localhost", "LocalHost", "localhost.", "local\u00adhost", "local\u200bhost", "ｌocalhost", "LOCALHOST。", "local\u2060host", "ﬂocalhost",
			"localhost%2e", "local%68ost", "user@localhost", "evil.test@localhost", `localhost\evil.test`, "localhost\tx", "localhost x", "xn--localhost-9ma", "localhost..",
			"l\u00f6calhost", "[::ffff:127.0.0.1]", "[::1%25lo]", "[::1%lo]", "127.1", "127.0.0.1", "2130706433", "0x7f.1", "127.0.0.1.", "localhost\xff",
		} {
			before := len(s.good.seen())
			answer := s.call(t, w, "near", "http://"+host+":"+port+"/")
			seen := s.good.seen()[before:]
			if len(seen) == 0 {
				if got := statuses(answer); len(got) == 1 && got[0] == http.StatusOK {
					t.Errorf("%s, %q: got 200, but downstream no request", w.name, host)
				}
				continue
			}
			if got := seen[0].values("Host"); len(got) != 1 || got[0] != "localhost:"+port && got[0] != "127.0.0.1:"+port {
				t.Errorf("%s, %q: downstream got Host %q", w.name, host, got)
			}
		}
		for host, want := range map[string]string{"localhost": "localhost", "LocalHost": "localhost", "localhost.": "localhost", "local\u00adhost": "localhost", "[::ffff:127.0.0.1]": "127.0.0.1"} {
			before := len(s.good.seen())
			answer := s.call(t, w, "near", "http://"+host+":0"+port+"/")
			if seen := s.good.seen()[before:]; len(seen) != 1 || !slices.Equal(seen[0].values("Host"), []string{want + ":" + port}) {
				t.Errorf("%s, %q: downstream got %v, want Host %s; the response is %q", w.name, host, seen, want, answer)
			}
		}
	}
}

func TestQueryKeepsItsBytes(t *testing.T) {
	t.Parallel()
	s := newRequestScene(t, "")
	for _, w := range ways {
		s.begin("jane")
		s.importInto(t, "near", "").connection(t)
		s.importKey(t, "queried", "a-key")
		for query, want := range map[string]string{
			"q=foo;api_key=2":            "q=foo&api_key=a-key",
			"q=foo&&r=bar":               "q=foo&&r=bar&api_key=a-key",
			"%zz=1":                      "%zz=1&api_key=a-key",
			"a=b+c%20d%2bE&e":            "a=b+c%20d%2bE&e&api_key=a-key",
			"%61pi_key=2&a=1&api_key":    "a=1&api_key=a-key",
			"&a=1":                       "&a=1&api_key=a-key",
			"a=%F0%9F%98%80&redirect=/?": "a=%F0%9F%98%80&redirect=/?&api_key=a-key",
		} {
			for connector, want := range map[string]string{"queried": want, "near": query} {
				before := len(s.good.seen())
				answer := s.call(t, w, connector, s.localURL("/x?"+query))
				if seen := s.good.seen()[before:]; len(seen) != 1 || seen[0].path() != "/x?"+want {
					t.Errorf("%s, %s, %q: downstream got %v, want %q; the response is %q", w.name, connector, query, seen, want, answer)
				}
			}
		}
	}
}

// RFC 9112 section 3.2 has no such target, but net/http reads one.
func TestTargetThatIsNoPathIsRefused(t *testing.T) {
	t.Parallel()
	s := newRequestScene(t, "")
	s.begin("jane")
	s.importInto(t, "near", "").connection(t)
	for _, target := range []string{"x:evil", "http:evil", "x:evil?q"} {
		address := fmt.Sprintf("127.0.0.1:%d", s.ports.Sidecar)
		answer := sendRaw(t, address, head("GET "+target, address, []string{
			"Connection: close", "X-Connector: near", "X-Upstream: localhost:" + portOf(s.good.address), "X-Apideck-Consumer-Id: jane",
		})+"\r\n")
		s.wantRefused(t, answer, http.StatusBadRequest)
	}
}

func TestAmbiguousCallerIsRefused(t *testing.T) {
	t.Parallel()
	s := newRequestScene(t, "")
	for _, w := range ways {
		s.begin("jane")
		s.importInto(t, "near", "").connection(t)
		for _, other := range []string{"john", "jane", ""} {
			s.wantRefused(t, s.call(t, w, "near", s.localURL("/"), "X-Apideck-Consumer-Id: "+other), http.StatusBadRequest)
		}
	}
}

func TestTooLargeHeadersGetAnErrorOfTheBroker(t *testing.T) {
	t.Parallel()
	s := newRequestScene(t, "limits {\nrequest_header 40KiB\n}")
	for _, w := range ways {
		s.begin("jane")
		s.importInto(t, "near", "").connection(t)
		if got := statuses(s.call(t, w, "near", s.localURL("/"), "X-Large: "+strings.Repeat("x", 38<<10))); !slices.Equal(got, []int{http.StatusOK}) {
			t.Errorf("%s: got %v below the limit, want 200", w.name, got)
		}
		s.begin("jane")
		for _, size := range []int{41 << 10, 200 << 10, 900 << 10} {
			answer := s.call(t, w, "near", s.localURL("/"), "X-Large: "+strings.Repeat("x", size))
			s.wantRefused(t, answer, http.StatusRequestHeaderFieldsTooLarge)
			if !strings.Contains(answer, "40960 bytes") {
				t.Errorf("%s: the response is %q, want it to say the limit", w.name, answer)
			}
		}
	}
}

// A signed URL carries its own credential, and many services refuse a second one.
func TestCallCanLeaveWithoutACredential(t *testing.T) {
	t.Parallel()
	s := newRequestScene(t, "")
	w := ways[1]
	s.begin("jane")
	s.importInto(t, "near", "").connection(t)
	s.importKey(t, "queried", "a-key")
	for connector, path := range map[string]string{"near": "/upload?sig=1", "queried": "/upload?sig=2"} {
		for _, none := range []string{"none", "None"} {
			before := len(s.good.seen())
			answer := s.call(t, w, connector, s.localURL(path), "X-Apideck-Downstream-Authorization: "+none)
			seen := s.good.seen()[before:]
			if len(seen) != 1 || seen[0].path() != path || len(seen[0].values("Authorization")) > 0 {
				t.Errorf("%s: downstream got %v, want it without a credential; the response is %q", connector, seen, answer)
			}
		}
	}
	s.begin("jane")
	s.wantRefused(t, s.call(t, w, "near", "http://"+s.evil.address+"/", "X-Apideck-Downstream-Authorization: none"), http.StatusForbidden)
	s.begin("nobody")
	s.wantRefused(t, s.call(t, w, "near", s.localURL("/"), "X-Apideck-Downstream-Authorization: none"), http.StatusNotFound)
}

func TestHalfACharacterIsNotStored(t *testing.T) {
	t.Parallel()
	s := newRequestScene(t, "")
	for _, body := range []string{
		`{"settings": {"api_key": "k\ud800x"}}`, `{"settings": {"api_key": "k"}, "metadata": {"\udc00": 1}}`, `{"settings": {"api_key": "k\ude00\ud83d"}}`,
	} {
		s.importBody(t, "crm/queried", "jane", body).wantError(t, http.StatusBadRequest, "RequestValidationError", "surrogate")
	}
	s.importBody(t, "crm/queried", "jane", `{"settings": {"api_key": "k"}, "metadata": {"a": "\ud83d\ude00"}}`).connection(t)
}
