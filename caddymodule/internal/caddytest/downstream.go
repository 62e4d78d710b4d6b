package caddytest

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

// A Downstream is a third-party API that records its requests.
type Downstream struct {
	*httptest.Server
	Requests chan *http.Request
	CA       string // a PEM file
}

// NewDownstream returns a downstream that speaks HTTP/1.1 over TLS.
func NewDownstream(t testing.TB, answer http.HandlerFunc) *Downstream {
	t.Helper()
	return NewDownstreamOver(t, "http/1.1", answer)
}

// NewDownstreamOver returns a downstream that speaks the protocol, "h2" or "http/1.1".
func NewDownstreamOver(t testing.TB, protocol string, answer http.HandlerFunc) *Downstream {
	t.Helper()
	d := &Downstream{Requests: make(chan *http.Request, 100)}
	d.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.Requests <- r
		answer(w, r)
	}))
	d.EnableHTTP2 = protocol == "h2"
	d.StartTLS()
	t.Cleanup(d.Close)
	d.CA = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.Certificate().Raw})
	if err := os.WriteFile(d.CA, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

// OK answers 200 without a body.
func OK(http.ResponseWriter, *http.Request) {}

// Request returns the next request that arrived, and waits for it.
func (d *Downstream) Request(t *testing.T) *http.Request {
	t.Helper()
	select {
	case r := <-d.Requests:
		return r
	case <-time.After(10 * time.Second):
		t.Fatal("downstream was not asked")
		return nil
	}
}

// WantNone checks that no further request arrived.
func (d *Downstream) WantNone(t *testing.T) {
	t.Helper()
	select {
	case r := <-d.Requests:
		t.Errorf("downstream was asked for %s", r.URL)
	default:
	}
}

// Proxy returns a Caddyfile with a reverse_proxy to the downstream, through the transport,
// for the connector crm/acme.
func (d *Downstream) Proxy(t *testing.T, transport, proxy string) (caddyfile, log string) {
	t.Helper()
	options, log := Globals(t, BrokerLines(t, t.TempDir(), ConnectorLines("crm/acme", d.URL, "allow_private")))
	return options + Site(d.URL, "crm/acme", fmt.Sprintf("tls_trust_pool file {\npem_file %s\n}\n%s", d.CA, transport), proxy), log
}

// Site returns a site with the connections API below /vault and a reverse_proxy elsewhere.
func Site(upstream, connector, transport, proxy string) string {
	return fmt.Sprintf("http:// {\nconnections_api\nreverse_proxy %s {\ntransport token_broker %s {\n%s\n}\n%s\n}\n}",
		upstream, connector, transport, proxy)
}
