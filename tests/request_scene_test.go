package tests

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// newRequestScene starts a process with connectors whose API is on this machine, as localhost:
// crm/near puts the credential into a header, crm/queried into the query.
func newRequestScene(t testing.TB, limits string) *attackScene {
	t.Helper()
	d := newDeployment(t, oauthserver.Config{}).onDisk()
	good, evil := newRawServer(t, "127.0.0.1"), newRawServer(t, "127.0.0.1")
	p := d.startWith(t, fmt.Sprintf(`%[2]s
		connector crm/near {
			auth_type oauth2
			auth_style header
			token_url http://127.0.0.1:1/token
			client_id near
			base_url http://localhost:%[1]s
			allow_host 127.0.0.1:%[1]s
			allow_private
		}
		connector crm/queried {
			auth_type apiKey
			base_url http://localhost:%[1]s
			inject query api_key
			allow_private
		}`, portOf(good.address), limits), fmt.Sprintf(`reverse_proxy {http.request.header.x-upstream} {
			fail_duration 30s
			max_fails 1
			transport token_broker crm/{http.request.header.x-connector} {
				app %s
			}
		}`, application))
	return &attackScene{process: p, good: good, evil: evil}
}

// localURL returns the URL of a path at the good downstream, by its name.
func (s *attackScene) localURL(path string) string {
	return "http://localhost:" + portOf(s.good.address) + path
}

// importKey imports a connection with an API key.
func (s *attackScene) importKey(t testing.TB, connector, key string) {
	t.Helper()
	s.importBody(t, "crm/"+connector, s.consumer, fmt.Sprintf(`{"settings": {"api_key": %q}}`, key)).connection(t)
}

// sendHalf writes a request, closes that direction, and returns everything that comes back.
func sendHalf(t testing.TB, address, request string) string {
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
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(conn)
	return string(answer)
}

// requestLines returns the lines of the requests that downstream got.
func (s *attackScene) requestLines() []string {
	var lines []string
	for _, r := range s.good.seen() {
		lines = append(lines, strings.TrimSuffix(r.line, " HTTP/1.1"))
	}
	return lines
}
