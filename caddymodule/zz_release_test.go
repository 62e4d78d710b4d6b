package caddymodule

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// A handler that takes over from reverse_proxy and fails in the middle leaves downstream's
// response unread and open.
func TestResponseThatNobodyReadsIsUnderWayNoLonger(t *testing.T) {
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "downstream's") })
	broken := newDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "cut off")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	options, _ := globals(t, brokerLines(t, t.TempDir(), connectorLines("crm/acme", d.URL, "allow_private"), "limits {\nconnection_concurrency 1\n}"))
	trust := func(d *downstream) string { return fmt.Sprintf("tls_trust_pool file {\npem_file %s\n}", d.ca) }
	handler := run(t, options+site(d.URL, "crm/acme", "app my-app\n"+trust(d),
		fmt.Sprintf("@found status 200\nhandle_response @found {\nreverse_proxy %s {\ntransport http {\n%s\n}\n}\n}", broken.URL, trust(broken))))
	importToken(t, handler, "crm/acme", "access-1")
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	for range 3 {
		var resp *http.Response
		for until := time.Now().Add(deadline); resp == nil || resp.StatusCode == http.StatusTooManyRequests && time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Apideck-Consumer-Id", "jane")
			resp = roundTrip(t, req) // the one before ends a moment after its answer
		}
		if _, err := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK || err == nil {
			t.Fatalf("got status %d, %v, want the answer that is cut off", resp.StatusCode, err)
		}
	}
}
