package caddymodule

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A downstream is a third-party API that notes what it is asked.
type downstream struct {
	*httptest.Server
	requests chan *http.Request
	ca       string // a PEM file
}

func newDownstream(t testing.TB, answer http.HandlerFunc) *downstream {
	t.Helper()
	return newDownstreamOver(t, "http/1.1", answer)
}

// newDownstreamOver returns a downstream that speaks h2, or http/1.1 alone.
func newDownstreamOver(t testing.TB, protocol string, answer http.HandlerFunc) *downstream {
	t.Helper()
	d := &downstream{requests: make(chan *http.Request, 100)}
	d.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.requests <- r
		answer(w, r)
	}))
	d.EnableHTTP2 = protocol == "h2"
	d.StartTLS()
	t.Cleanup(d.Close)
	d.ca = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.Certificate().Raw})
	if err := os.WriteFile(d.ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

func ok(http.ResponseWriter, *http.Request) {}

// request returns the request that downstream got.
func (d *downstream) request(t *testing.T) *http.Request {
	t.Helper()
	select {
	case r := <-d.requests:
		return r
	case <-time.After(deadline):
		t.Fatal("downstream was not asked")
		return nil
	}
}

// wantNone checks that downstream was not asked.
func (d *downstream) wantNone(t *testing.T) {
	t.Helper()
	select {
	case r := <-d.requests:
		t.Errorf("downstream was asked for %s", r.URL)
	default:
	}
}

// proxy returns a Caddyfile that proxies to the downstream for the connector crm/acme,
// whose hosts may be private.
func (d *downstream) proxy(t *testing.T, transport, proxy string) (caddyfile, log string) {
	t.Helper()
	options, log := globals(t, brokerLines(t, t.TempDir(), connectorLines("crm/acme", d.URL, "allow_private")))
	return options + site(d.URL, "crm/acme", fmt.Sprintf("tls_trust_pool file {\npem_file %s\n}\n%s", d.ca, transport), proxy), log
}

// site has the API below /vault and the proxy elsewhere.
func site(upstream, connector, transport, proxy string) string {
	return fmt.Sprintf("http:// {\nconnections_api\nreverse_proxy %s {\ntransport token_broker %s {\n%s\n}\n%s\n}\n}",
		upstream, connector, transport, proxy)
}
