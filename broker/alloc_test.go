package broker_test

import (
	"maps"
	"net/http"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
)

// What a call with a cached token allocates is paid for by every call: the admission and the
// authorization. Credential, host check and header values are shared.
func TestCallWithACachedTokenAllocatesTwice(t *testing.T) {
	tokens, keys := cachedConnections(t, 10)
	template := http.Header{"Accept": {"application/json"}, "User-Agent": {"test"}, "Authorization": {"Bearer old"}}
	header := maps.Clone(template)
	resp := brokertest.Response(http.StatusOK, "ok")
	resp.Header = http.Header{"Content-Type": {"application/json"}, "Content-Length": {"2"}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.acme.test/v1/things", nil)
	if err != nil {
		t.Fatal(err)
	}
	call := 0
	got := testing.AllocsPerRun(1000, func() {
		call++
		clear(header)
		maps.Copy(header, template)
		req.Header = header
		admission, err := tokens.Admit(t.Context(), keys[call%len(keys)])
		if err != nil {
			t.Fatal(err)
		}
		auth, err := admission.Authorize(req)
		if err != nil {
			t.Fatal(err)
		}
		auth.HandleResponse(resp)
		admission.Release()
	})
	if got > 2 {
		t.Errorf("%v allocations, want 2", got)
	}
	if sent := req.Header.Get("Authorization"); sent == "Bearer old" || sent == "" {
		t.Errorf("the request has Authorization %q", sent)
	}
}
