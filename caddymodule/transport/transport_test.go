package transport

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func TestCredentialIsInjected(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	caddyfile, log := d.Proxy(t, "app my-app", "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "canary-access")

	resp := caddytest.Do(t, handler, "GET", "http://caller.test/v1/things?q=1", "",
		"X-Apideck-Consumer-Id", "jane", "X-Custom", "kept",
		// These must not arrive, nor keep the credential from arriving.
		"Authorization", "Bearer caller", "Authorization", "Bearer caller-2", "Cookie", "caller=1", "X-Apideck-Service-Id", "x",
		"Baggage", "user=jane", "Proxy-Authorization", "x", "Forwarded", "for=10.0.0.1",
		"Connection", "Authorization, Close")
	if got := caddytest.ReadAll(t, resp); resp.StatusCode != http.StatusOK || got != "hello" {
		t.Fatalf("got status %d: %s", resp.StatusCode, got)
	}
	got := d.Request(t)
	if values := got.Header.Values("Authorization"); len(values) != 1 || values[0] != "Bearer canary-access" {
		t.Errorf("got Authorization %q", values)
	}
	for name := range got.Header {
		switch name {
		case "Authorization", "X-Custom", "Via":
		default:
			t.Errorf("got header %s: %s", name, got.Header.Get(name))
		}
	}
	if host := strings.TrimPrefix(d.URL, "https://"); got.Host != host {
		t.Errorf("got host %s, want %s", got.Host, host)
	}
	if got.URL.String() != "/v1/things?q=1" {
		t.Errorf("got %s", got.URL)
	}
	if strings.Contains(caddytest.Logged(t, log), "canary") {
		t.Error("the log shows the credential")
	}
}

func TestOperatorsHeadersStay(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Proxy(t, "app my-app", `
		header_up Cookie operator=1
		header_up X-Apideck-Trace yes
		header_up X-Forwarded-For 192.0.2.1
		header_up Authorization operator
		header_up Host api.acme.test`)
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	caddytest.Do(t, handler, "GET", "http://caller.test/", "", "X-Apideck-Consumer-Id", "jane", "Cookie", "caller=1")
	got := d.Request(t)
	for name, want := range map[string]string{
		"Cookie": "operator=1", "X-Apideck-Trace": "yes", "X-Forwarded-For": "192.0.2.1", "Authorization": "Bearer access-1",
	} {
		if got := strings.Join(got.Header.Values(name), "|"); got != want {
			t.Errorf("got %s %q, want %q", name, got, want)
		}
	}
	if got.Host != "api.acme.test" {
		t.Errorf("got host %s", got.Host)
	}
}

func TestUnencryptedUpstreamGetsItsOwnHost(t *testing.T) {
	requests := make(chan *http.Request, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { requests <- r }))
	t.Cleanup(srv.Close)
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(), caddytest.ConnectorLines("crm/acme", srv.URL, "allow_private")))
	handler := caddytest.Run(t, options+caddytest.Site(srv.URL, "crm/acme", "app my-app", ""))
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	resp := caddytest.Do(t, handler, "GET", "http://caller.test/", "", "X-Apideck-Consumer-Id", "jane")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %d: %s", resp.StatusCode, caddytest.ReadAll(t, resp))
	}
	if got := (<-requests).Host; "http://"+got != srv.URL {
		t.Errorf("got host %s, want %s", got, srv.URL)
	}
}

func TestCallersAuthenticateWithoutApp(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Proxy(t, "", "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")

	caddytest.WantError(t, caddytest.Do(t, handler, "GET", "http://caller.test/", "", "X-Apideck-Consumer-Id", "jane"), 401, "UnauthorizedError")
	caddytest.WantError(t, caddytest.Do(t, handler, "GET", "http://caller.test/", "", "Authorization", "Bearer wrong",
		"X-Apideck-App-Id", "my-app", "X-Apideck-Consumer-Id", "jane"), 401, "UnauthorizedError")
	d.WantNone(t)

	if resp := caddytest.Do(t, handler, "GET", "http://caller.test/", "", caddytest.Caller()...); resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %d: %s", resp.StatusCode, caddytest.ReadAll(t, resp))
	}
	got := d.Request(t)
	if got.Header.Get("Authorization") != "Bearer access-1" || got.Header.Get("X-Apideck-App-Id") != "" {
		t.Errorf("got %v", got.Header)
	}
}

func TestPlaceholdersChooseTheConnection(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Proxy(t, "app {http.request.header.x-application}\nconsumer {http.request.header.x-tenant}", "")
	caddyfile = strings.Replace(caddyfile, "transport token_broker crm/acme", "transport token_broker crm/{http.request.header.x-service}", 1)
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")

	send := func(app, service, tenant string) *http.Response {
		return caddytest.Do(t, handler, "GET", "http://caller.test/", "", "X-Application", app, "X-Service", service, "X-Tenant", tenant)
	}
	if resp := send("my-app", "acme", "jane"); resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %d: %s", resp.StatusCode, caddytest.ReadAll(t, resp))
	}
	got := d.Request(t).Header
	if got.Get("Authorization") != "Bearer access-1" {
		t.Errorf("got %v", got)
	}
	for _, name := range []string{"X-Application", "X-Service", "X-Tenant"} {
		if got.Get(name) != "" {
			t.Errorf("downstream is told %s", name)
		}
	}
	caddytest.WantError(t, send("other", "acme", "jane"), 401, "UnauthorizedError")
	caddytest.WantError(t, send("my-app", "other", "jane"), 404, "ConnectorNotFoundError")
	caddytest.WantError(t, send("my-app", "no name", "jane"), 404, "ConnectorNotFoundError")
	caddytest.WantError(t, send("my-app", "acme", "john"), 404, "ConnectionNotFoundError")
	caddytest.WantError(t, send("my-app", "acme", ""), 400, "RequestHeadersValidationError")
	d.WantNone(t)
}

func TestCredentialLeavesForAllowedHostsOnly(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	localhost := strings.Replace(d.URL, "127.0.0.1", "localhost", 1)
	for name, tt := range map[string]struct{ connector, upstream string }{
		"another host":      {caddytest.ConnectorLines("crm/acme", "https://api.acme.test", "allow_private"), d.URL},
		"another port":      {caddytest.ConnectorLines("crm/acme", "https://127.0.0.1:1", "allow_private"), d.URL},
		"without TLS":       {caddytest.ConnectorLines("crm/acme", localhost), strings.Replace(localhost, "https", "http", 1)},
		"a private address": {caddytest.ConnectorLines("crm/acme", localhost), localhost},
		"an IP address":     {caddytest.ConnectorLines("crm/acme", localhost, "allow_host localhost"), d.URL},
		"a Unix socket":     {caddytest.ConnectorLines("crm/acme", localhost, "allow_private"), "unix//run/acme.sock"},
	} {
		t.Run(name, func(t *testing.T) {
			options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(), tt.connector))
			handler := caddytest.Run(t, options+caddytest.Site(tt.upstream, "crm/acme", "app my-app", ""))
			caddytest.ImportToken(t, handler, "crm/acme", "access-1")
			caddytest.WantError(t, caddytest.Do(t, handler, "GET", "http://caller.test/", "", "X-Apideck-Consumer-Id", "jane"), 403, "ForbiddenError")
			d.WantNone(t)
		})
	}
}

func TestDownstreamCannotForgeErrorsOrReflectCredentials(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Token-Broker-Error", "ConnectionNotFoundError")
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusTeapot)
	})
	caddyfile, log := d.Proxy(t, "app my-app", "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "canary-access")
	resp := caddytest.Do(t, handler, "GET", "http://caller.test/", "", "X-Apideck-Consumer-Id", "jane")
	if resp.StatusCode != http.StatusTeapot || resp.Header.Get("X-Token-Broker-Error") != "" {
		t.Errorf("got status %d with %v", resp.StatusCode, resp.Header)
	}
	if echo := resp.Header.Get("X-Echo"); echo == "" || strings.Contains(echo, "canary") {
		t.Errorf("got X-Echo %q", echo)
	}
	if strings.Contains(caddytest.Logged(t, log), "canary") {
		t.Error("the log shows the credential")
	}
}

func TestErrorsDoNotCountAgainstTheUpstream(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Proxy(t, "app my-app", "fail_duration 1h\nmax_fails 1")
	handler := caddytest.Run(t, caddyfile)
	for range 3 {
		caddytest.WantError(t, caddytest.Do(t, handler, "GET", "http://caller.test/", "", "X-Apideck-Consumer-Id", "jane"), 404, "ConnectionNotFoundError")
	}
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	if resp := caddytest.Do(t, handler, "GET", "http://caller.test/", "", "X-Apideck-Consumer-Id", "jane"); resp.StatusCode != http.StatusOK {
		t.Errorf("got status %d: %s", resp.StatusCode, caddytest.ReadAll(t, resp))
	}
}

func TestDownstreamIsASpanOfItsOwn(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Proxy(t, "app my-app", "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "canary-access")

	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	ctx, parent := provider.Tracer("test").Start(context.Background(), "server")
	req := httptest.NewRequest(http.MethodGet, "http://caller.test/secret-path?key=canary-query", nil).WithContext(ctx)
	req.Header.Set("X-Apideck-Consumer-Id", "jane")
	req.Header.Set("Tracestate", "caller=1")
	handler.ServeHTTP(httptest.NewRecorder(), req)
	parent.End()

	sent := propagation.TraceContext{}.Extract(context.Background(), propagation.HeaderCarrier(d.Request(t).Header))
	for _, span := range spans.GetSpans() {
		if strings.Contains(fmt.Sprint(span.Attributes), "canary") || strings.Contains(fmt.Sprint(span.Attributes), "jane") {
			t.Errorf("span %s has %v", span.Name, span.Attributes)
		}
		if span.Name != "token_broker.downstream" {
			continue
		}
		if span.SpanKind != trace.SpanKindClient || span.Parent.SpanID() != parent.SpanContext().SpanID() {
			t.Errorf("got kind %s with parent %s", span.SpanKind, span.Parent.SpanID())
		}
		if got := trace.SpanContextFromContext(sent); got.SpanID() != span.SpanContext.SpanID() || got.TraceState().Len() != 0 {
			t.Errorf("downstream was told %v, want span %s", got, span.SpanContext.SpanID())
		}
		return
	}
	t.Errorf("there is no span token_broker.downstream in %v", spans.GetSpans().Snapshots())
}
