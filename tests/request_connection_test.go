package tests

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// A numberingServer is a downstream that says which of its connections a request came over.
type numberingServer struct {
	*httptest.Server

	mu    sync.Mutex
	conns map[string]int // guarded by mu; numbers by the client's address
}

func newNumberingServer(t testing.TB) *numberingServer {
	t.Helper()
	s := &numberingServer{conns: make(map[string]int)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.conns[r.RemoteAddr] == 0 {
			s.conns[r.RemoteAddr] = len(s.conns) + 1
		}
		fmt.Fprint(w, s.conns[r.RemoteAddr])
	}))
	t.Cleanup(s.Close)
	return s
}

// A waysClient calls a downstream over connections of its own to the broker, which stay open.
type waysClient struct {
	*http.Client
	p    *process
	base string
}

func newWaysClient(t testing.TB, p *process, base string) *waysClient {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &waysClient{&http.Client{Transport: transport, Timeout: waitTimeout}, p, base}
}

// call returns the number of the connection that a call came over.
func (c *waysClient) call(t testing.TB, proxy bool, connector, consumer, own string) string {
	t.Helper()
	address, header := c.p.sidecarURL("/"), c.p.deployment.apiHeader(consumer)
	if proxy {
		address = c.p.apiURL("/proxy")
	}
	header.Set("X-Connector", connector)
	header.Set("X-Apideck-Unified-Api", "crm")
	header.Set("X-Apideck-Service-Id", connector)
	header.Set("X-Apideck-Downstream-Url", c.base)
	header.Set("X-Apideck-Downstream-Authorization", own)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	number, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the response is %v: %s, %v, want 200", resp, number, err)
	}
	return string(number)
}

// NTLM and Negotiate authenticate a connection: whoever sends the next request over it is taken
// for the same user (RFC 4559 section 6).
func TestConnectionThatACredentialAuthenticatesIsNotShared(t *testing.T) {
	t.Parallel()
	downstream := newNumberingServer(t)
	p := newDeployment(t, oauthserver.Config{}).onDisk().startWays(t, wayOptions{base: downstream.URL, upstream: downstream.URL})
	s := &attackScene{process: p}
	for _, s.consumer = range []string{"jane", "john"} {
		s.importInto(t, "near", "").connection(t)
		s.importBody(t, "crm/windows", s.consumer, fmt.Sprintf(`{"settings": {"api_key": %q}}`, stolen)).connection(t)
	}
	for _, proxy := range []bool{true, false} {
		connector, schemes := "windows", []string{""}
		if proxy {
			connector, schemes = "near", []string{"NTLM TlRMTVNTUAABAAAA", "negotiate YII=", "Negotiate YII="}
		}
		for _, scheme := range schemes {
			first, second := newWaysClient(t, p, downstream.URL), newWaysClient(t, p, downstream.URL)
			bound := first.call(t, proxy, connector, "jane", scheme)
			if again := first.call(t, proxy, connector, "jane", scheme); again != bound {
				t.Errorf("proxy %t, %s: a handshake goes over the connections %s and %s, want one", proxy, scheme, bound, again)
			}
			for name, other := range map[string]string{
				"another consumer":              first.call(t, proxy, connector, "john", scheme),
				"another client":                second.call(t, proxy, connector, "jane", scheme),
				"a call without the scheme":     first.call(t, proxy, "near", "jane", ""),
				"another consumer's usual call": first.call(t, proxy, "near", "john", ""),
				"a call over the other way":     first.call(t, !proxy, "near", "jane", ""),
				"another client's usual call":   second.call(t, proxy, "near", "jane", ""),
				"another consumer's own":        second.call(t, true, "near", "john", "Bearer x"),
			} {
				if other == bound {
					t.Errorf("proxy %t, %s: %s shares the connection %s", proxy, scheme, name, bound)
				}
			}
		}
	}
}

func TestConnectionsToDownstreamHaveAMaximumAge(t *testing.T) {
	t.Parallel()
	downstream := newNumberingServer(t)
	d := newDeployment(t, oauthserver.Config{}).onDisk()
	p := d.startWays(t, wayOptions{base: downstream.URL, upstream: downstream.URL, proxy: "max_connection_age 200ms", transport: "max_connection_age 200ms"})
	s := &attackScene{process: p, consumer: "jane"}
	s.importInto(t, "near", "").connection(t)
	client := newWaysClient(t, p, downstream.URL)
	for _, proxy := range []bool{true, false} {
		first := client.call(t, proxy, "near", "jane", "")
		eventually(t, "another connection under steady traffic", func() error {
			if client.call(t, proxy, "near", "jane", "") == first {
				return errors.New("calls still go over the first")
			}
			return nil
		})
	}
}

func TestKeyThatOthersCanReadIsWarnedOf(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, oauthserver.Config{}).onDisk()
	p := d.startWith(t, "", "respond 200")
	p.importBody(t, "crm/none", consumer, "{}") // opens the store
	p.stop(t)
	var keys []string
	data := filepath.Join(d.dir, "data", "caddy", "token-broker")
	err := filepath.WalkDir(data, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		want := os.FileMode(0o600)
		if entry.IsDir() {
			want = 0o700
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s was created with mode %o, want %o", path, got, want)
		}
		if entry.Name() == "key.json" {
			keys = append(keys, path)
		}
		return nil
	})
	if err != nil || len(keys) == 0 {
		t.Fatalf("found the keys %v, %v", keys, err)
	}
	for _, key := range keys {
		for path, mode := range map[string]os.FileMode{key: 0o644, filepath.Dir(key): 0o777} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	p = d.startWith(t, "", "respond 200")
	p.importBody(t, "crm/none", consumer, "{}")
	for _, key := range keys {
		for _, path := range []string{key, filepath.Dir(key)} {
			eventually(t, "a warning of "+path, func() error {
				if !strings.Contains(p.log.String(), fmt.Sprintf(`"path":%q,"mode"`, path)) {
					return errors.New("there is none")
				}
				return nil
			})
		}
	}
}
