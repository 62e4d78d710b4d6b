package transport

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

// A handle_response route that panics leaves downstream's response unread and open.
func TestResponseThatNobodyReadsIsUnderWayNoLonger(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "downstream's") })
	broken := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "cut off")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(), caddytest.ConnectorLines("crm/acme", d.URL, "allow_private"), "limits {\nconnection_concurrency 1\n}"))
	trust := func(d *caddytest.Downstream) string {
		return fmt.Sprintf("tls_trust_pool file {\npem_file %s\n}", d.CA)
	}
	handler := caddytest.Run(t, options+caddytest.Site(d.URL, "crm/acme", "app my-app\n"+trust(d),
		fmt.Sprintf("@found status 200\nhandle_response @found {\nreverse_proxy %s {\ntransport http {\n%s\n}\n}\n}", broken.URL, trust(broken))))
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	for range 3 {
		var resp *http.Response
		// The previous request ends shortly after its response.
		brokertest.Eventually(t, caddytest.Deadline, "room for the next request", func() error {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Apideck-Consumer-Id", "jane")
			if resp = caddytest.RoundTrip(t, req); resp.StatusCode == http.StatusTooManyRequests {
				return fmt.Errorf("got status %d", resp.StatusCode)
			}
			return nil
		})
		if _, err := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK || err == nil {
			t.Fatalf("got status %d, %v, want the answer that is cut off", resp.StatusCode, err)
		}
	}
}
