package exchange

import (
	"fmt"
	"log"
	"net/http"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

// net/http logs unsolicited data from a server, which may echo the credential.
func TestWhatDownstreamSendsUnaskedIsNotLogged(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{\"echo\": %q}", r.Header.Get("Authorization"))
		_, _ = conn.Read(make([]byte, 1)) // until the broker closes it
	})
	for name, tt := range map[string]struct {
		caddyfile func() (caddyfile, log string)
		url       string
		header    []string
	}{
		"transport": {
			func() (string, string) { return d.Proxy(t, "app my-app\nversions 1.1", "") },
			"http://broker/",
			[]string{"X-Apideck-Consumer-Id", "jane"},
		},
		"proxy": {func() (string, string) { return d.Forward(t, "") }, "http://broker/proxy", caddytest.Call(d.URL)},
	} {
		t.Run(name, func(t *testing.T) {
			caddyfile, _ := tt.caddyfile()
			handler := caddytest.Run(t, caddyfile)
			caddytest.ImportToken(t, handler, "crm/acme", "canary-access")
			std := log.Writer()
			t.Cleanup(func() { log.SetOutput(std) })
			written := &brokertest.Log{}
			log.SetOutput(written)
			if got := caddytest.ReadAll(t, caddytest.Do(t, handler, http.MethodGet, tt.url, "", tt.header...)); got != "ok" {
				t.Fatalf("got %q", got)
			}
			brokertest.Eventually(t, caddytest.Deadline, "the line of the log", func() error {
				if text := written.String(); !strings.Contains(text, "Unsolicited response") {
					return fmt.Errorf("there is %q", text)
				}
				return nil
			})
			if text := written.String(); strings.Contains(text, "canary") {
				t.Errorf("the log has what downstream sent: %s", text)
			}
		})
	}
}
