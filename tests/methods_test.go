package tests

import (
	"net/http"
	"testing"
)

// A response that refuses a method lists the allowed ones, in every handler.
func TestRefusedMethodsListTheAllowedOnes(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		proxied := d.apiHeader(consumer)
		proxied.Set("X-Apideck-Downstream-Url", d.provider.APIURL)
		named := proxied.Clone()
		named.Set("X-Apideck-Downstream-Method", http.MethodTrace)
		const proxyAllows = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
		for _, test := range []struct {
			method, url string
			header      http.Header
			allowed     string
		}{
			{http.MethodPut, p.apiURL("/vault/connections/" + acme), d.apiHeader(consumer), "DELETE, GET, HEAD, PATCH"},
			{http.MethodPost, p.apiURL("/vault/connections"), d.apiHeader(consumer), "GET, HEAD"},
			{http.MethodTrace, p.apiURL("/proxy"), proxied, proxyAllows},
			{http.MethodGet, p.apiURL("/proxy"), named, proxyAllows},
			{http.MethodTrace, p.sidecarURL("/acme/contacts"), http.Header{"X-Apideck-Consumer-Id": {consumer}}, proxyAllows},
		} {
			got := send(t, test.method, test.url, test.header, "")
			got.wantError(t, http.StatusMethodNotAllowed, "MethodNotAllowedError")
			if allowed := got.header.Get("Allow"); allowed != test.allowed {
				t.Errorf("%s %s: Allow is %q, want %q", test.method, test.url, allowed, test.allowed)
			}
		}
	})
}
