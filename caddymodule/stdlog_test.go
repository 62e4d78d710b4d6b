package caddymodule

import (
	"fmt"
	"log"
	"net/http"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
)

// What a server sends that nobody has asked for is logged by net/http, with the credential
// in it if the server echoes that.
func TestWhatDownstreamSendsUnaskedIsNotLogged(t *testing.T) {
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) {
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
			func() (string, string) { return d.proxy(t, "app my-app\nversions 1.1", "") },
			"http://broker/",
			[]string{"X-Apideck-Consumer-Id", "jane"},
		},
		"proxy": {func() (string, string) { return d.forward(t, "") }, "http://broker/proxy", call(d.URL)},
	} {
		t.Run(name, func(t *testing.T) {
			caddyfile, _ := tt.caddyfile()
			handler := run(t, caddyfile)
			importToken(t, handler, "crm/acme", "canary-access")
			std := log.Writer()
			t.Cleanup(func() { log.SetOutput(std) })
			written := &brokertest.Log{}
			log.SetOutput(written)
			if got := readAll(t, do(t, handler, http.MethodGet, tt.url, "", tt.header...)); got != "ok" {
				t.Fatalf("got %q", got)
			}
			brokertest.Eventually(t, deadline, "the line of the log", func() error {
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

func TestStandardLogIsQuietedOnce(t *testing.T) {
	std := log.Writer()
	t.Cleanup(func() { log.SetOutput(std) })
	written := &brokertest.Log{}
	log.SetOutput(written)
	quietNetHTTP()
	quietNetHTTP()
	if w, ok := log.Writer().(quietWriter); !ok || isQuiet(w.Writer) {
		t.Errorf("got %T in front of %T", log.Writer(), w.Writer)
	}
	log.Print("something else")
	if !strings.Contains(written.String(), "something else") {
		t.Error("other lines are lost")
	}
}
