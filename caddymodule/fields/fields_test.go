package fields

import (
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestPoliciesForAnOriginDoNotReachTheCaller(t *testing.T) {
	t.Parallel()
	for _, policy := range []Policy{{IsProxy: true}, {}} {
		r := at(t, policy, "http://127.0.0.1:8080/proxy", "https://api.example.com/")
		header := http.Header{}
		for _, row := range table {
			for _, name := range row.names {
				header[canonical(strings.Replace(strings.Replace(name, "*-", "Cdn-", 1), "*", "Any", 1))] = []string{"x"}
			}
		}
		header["Content-Type"], header["X-Custom"], header["X-A"] = []string{"a/b"}, []string{"x"}, []string{"x"}
		r.Clean(header, nil)
		for name := range header {
			d := decide(name)
			if what := map[bool]action{true: d.proxy, false: d.transport}[policy.IsProxy]; what == removed {
				t.Errorf("%s is still there", name)
			}
		}
		for _, name := range []string{"Content-Type", "X-Custom", "X-A", "Cache-Control", "Etag", "Sec-Websocket-Accept", "X-Accel-Buffering", "Proxy-Status"} {
			if header[name] == nil {
				t.Errorf("%s is not there any longer", name)
			}
		}
	}
}

// Names are looked up in canonical form, and the quick check must not miss any.
func TestTableFindsEachOfItsNames(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, row := range table {
		for _, name := range row.names {
			if seen[name] {
				t.Errorf("%s is there twice", name)
			}
			seen[name] = true
			example := canonical(strings.Replace(strings.Replace(name, "*-", "Any-", 1), "*", "Any", 1))
			if got := decide(example); got != (decision{row.proxy, row.transport}) {
				t.Errorf("%s: got %v, want %v, %v", example, got, row.proxy, row.transport)
			}
			if len(example) > 1 && isPlain(example) && (row.proxy != kept || row.transport != kept) {
				t.Errorf("%s counts as plain", example)
			}
		}
	}
}

// inWords returns the words of docs/security.md.
func inWords(what action, isProxy bool) string {
	switch {
	case what == kept:
		return "kept"
	case what == removed:
		return "removed"
	case what == challenge:
		return "kept, unless it names the broker"
	case isProxy:
		return "resolved"
	default:
		return "kept on the site"
	}
}

func TestDocumentationHasTheSameTable(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile("`([^`]+)`")
	documented := make(map[string][2]string)
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !strings.HasPrefix(line, "| `") {
			continue
		}
		for _, match := range code.FindAllStringSubmatch(cells[1], -1) {
			documented[match[1]] = [2]string{strings.TrimSpace(cells[2]), strings.TrimSpace(cells[3])}
		}
	}
	known := 0
	for _, row := range table {
		for _, name := range row.names {
			known++
			if got, want := documented[name], [2]string{inWords(row.proxy, true), inWords(row.transport, false)}; got != want {
				t.Errorf("%s: the page says %q, the table %q", name, got, want)
			}
		}
	}
	if len(documented) != known {
		t.Errorf("the page has %d names, the table %d", len(documented), known)
	}
}

func TestCachesLearnWhatDecidesAResponse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name         string
		policy       Policy
		asked        string // method
		sent         string
		header       http.Header
		vary, caches string
	}{
		{"the Proxy API", Policy{IsProxy: true, Vary: "a, b"}, "GET", "GET", http.Header{"Cache-Control": {"public, max-age=60"}}, "a, b", "public, max-age=60"},
		{"with a Vary", Policy{IsProxy: true, Vary: "a"}, "GET", "GET", http.Header{"Vary": {"Accept"}}, "Accept, a", ""},
		{"with Vary: *", Policy{IsProxy: true, Vary: "a"}, "GET", "GET", http.Header{"Vary": {"Accept, *"}}, "*", ""},
		{"with a field whose name has an asterisk", Policy{IsProxy: true, Vary: "a"}, "GET", "GET", http.Header{"Vary": {"x*"}}, "x*, a", ""},
		{"a GET that stands for a POST", Policy{IsProxy: true, Vary: "a"}, "GET", "POST", http.Header{"Cache-Control": {"max-age=60"}}, "a", "no-store"},
		{"a POST that stands for a GET", Policy{IsProxy: true, Vary: "a"}, "POST", "GET", http.Header{"Cache-Control": {"max-age=60"}}, "a", "max-age=60"},
		{"a HEAD for a GET", Policy{IsProxy: true, Vary: "a"}, "HEAD", "GET", http.Header{}, "a", ""},
		{"the transport", Policy{Vary: "c"}, "GET", "GET", http.Header{}, "c", ""},
		{"Expires", Policy{Vary: "c"}, "GET", "GET", http.Header{"Expires": {"0"}}, "c", "private"},
		{"a validator", Policy{Vary: "c"}, "GET", "GET", http.Header{"Etag": {`"x"`}}, "c", "private"},
		{"heuristic", Policy{Vary: "c"}, "GET", "GET", http.Header{"Last-Modified": {"x"}}, "c", "private"},
		{"max-age", Policy{Vary: "c"}, "GET", "GET", http.Header{"Cache-Control": {"max-age=60"}}, "c", "private, max-age=60"},
		{"no-cache, two lines", Policy{Vary: "c"}, "GET", "GET", http.Header{"Cache-Control": {"no-cache", "max-age=60"}}, "c", "private, no-cache, max-age=60"},
		{"explicitly public", Policy{Vary: "c"}, "GET", "GET", http.Header{"Cache-Control": {"Public, max-age=60"}}, "c", "Public, max-age=60"},
		{"s-maxage", Policy{Vary: "c"}, "GET", "GET", http.Header{"Cache-Control": {"s-maxage=60"}}, "c", "s-maxage=60"},
		{"no-store", Policy{Vary: "c"}, "GET", "GET", http.Header{"Cache-Control": {"no-store"}}, "c", "no-store"},
		{"private", Policy{Vary: "c"}, "GET", "GET", http.Header{"Cache-Control": {"private"}}, "c", "private"},
		{"private fields", Policy{Vary: "c"}, "GET", "GET", http.Header{"Cache-Control": {`private="x"`}}, "c", `private, private="x"`},
		{"an open quote", Policy{Vary: "c"}, "GET", "GET", http.Header{"Cache-Control": {`x="no-store, private`}}, "c", `private, x="no-store, private`},
		{"no connection by header", Policy{}, "GET", "GET", http.Header{}, "", "private"},
		{"more", Policy{Vary: "c", DependsOnMore: true}, "GET", "GET", http.Header{"Cache-Control": {"public, s-maxage=1, max-age=60"}, "Vary": {"Accept"}}, "*", "private, max-age=60"},
		{"more, without Cache-Control", Policy{DependsOnMore: true}, "GET", "GET", http.Header{}, "*", "private"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := at(t, tt.policy, "http://127.0.0.1:8080/", "https://api.example.com/")
			r.Caller.Method = tt.asked
			r.Cache(tt.header, tt.sent)
			if got := strings.Join(tt.header["Vary"], ", "); got != tt.vary {
				t.Errorf("got Vary %q, want %q", got, tt.vary)
			}
			if got := strings.Join(tt.header["Cache-Control"], ", "); got != tt.caches {
				t.Errorf("got Cache-Control %q, want %q", got, tt.caches)
			}
		})
	}
}

func TestConnectionCannotRemoveWhatTheBrokerAdds(t *testing.T) {
	t.Parallel()
	r := at(t, Policy{Vary: "c"}, "http://127.0.0.1:8080/", "https://api.example.com/")
	header := http.Header{"Connection": {"Vary, upgrade", "cache-control,x-hop"}, "X-Hop": {"1"}, "Upgrade": {"websocket"}, "Vary": {"Accept"}, "Etag": {"x"}}
	r.Clean(header, nil)
	r.Cache(header, http.MethodGet)
	if header["Connection"] != nil || header["X-Hop"] != nil || header.Get("Vary") != "c" || header.Get("Cache-Control") != "private" || header.Get("Upgrade") != "websocket" {
		t.Errorf("got %v", header)
	}
}

func TestTrailersHaveNoEffectOfHeaders(t *testing.T) {
	t.Parallel()
	r := at(t, Policy{}, "http://127.0.0.1:8080/", "https://api.example.com/")
	trailer := http.Header{
		"Location": {"/x"}, "Set-Cookie": {"a"}, "Cache-Control": {"public"}, "Vary": nil, "X-Checksum": {"1"}, "Server-Timing": {"a"},
		"Content-Length": {"1"}, "Content-Encoding": {"gzip"}, "Content-Type": {"text/html"},
	}
	r.CleanTrailer(trailer)
	left := make([]string, 0, len(trailer))
	for name := range trailer {
		left = append(left, name)
	}
	if slices.Sort(left); !slices.Equal(left, []string{"Server-Timing", "X-Checksum"}) {
		t.Errorf("got %q", left)
	}
}

// Each response pays for this.
func BenchmarkClean(b *testing.B) {
	r := at(b, Policy{Vary: "x-apideck-consumer-id"}, "http://127.0.0.1:8080/contacts", "https://api.example.com/contacts")
	usual := http.Header{
		"Content-Type": {"application/json"}, "Content-Length": {"123"}, "Date": {"Mon, 02 Jan 2006 15:04:05 GMT"}, "Server": {"acme"},
		"Etag": {`"x"`}, "X-Request-Id": {"1"}, "X-Ratelimit-Remaining": {"9"}, "Connection": {"keep-alive"}, "Content-Encoding": {"gzip"},
	}
	b.ReportAllocs()
	for b.Loop() {
		r.Clean(usual, stripKey{})
		delete(usual, "Vary")
		delete(usual, "Cache-Control")
		r.Cache(usual, http.MethodGet)
	}
}
