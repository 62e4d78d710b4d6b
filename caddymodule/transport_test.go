package caddymodule

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
)

func TestCredentialIsInjected(t *testing.T) {
	d := newDownstream(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	caddyfile, log := d.proxy(t, "app my-app", "")
	handler := run(t, caddyfile)
	importToken(t, handler, "crm/acme", "canary-access")

	resp := do(t, handler, "GET", "http://caller.test/v1/things?q=1", "",
		"X-Apideck-Consumer-Id", "jane", "X-Custom", "kept",
		// What must not arrive, and what must not keep the credential from arriving.
		"Authorization", "Bearer caller", "Authorization", "Bearer caller-2", "Cookie", "caller=1", "X-Apideck-Service-Id", "x",
		"Baggage", "user=jane", "Proxy-Authorization", "x", "Forwarded", "for=10.0.0.1",
		"Connection", "Authorization, Close")
	if got := readAll(t, resp); resp.StatusCode != http.StatusOK || got != "hello" {
		t.Fatalf("got status %d: %s", resp.StatusCode, got)
	}
	got := d.request(t)
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
	if strings.Contains(logged(t, log), "canary") {
		t.Error("the log shows the credential")
	}
}

func TestOperatorsHeadersStay(t *testing.T) {
	d := newDownstream(t, ok)
	caddyfile, _ := d.proxy(t, "app my-app", `
		header_up Cookie operator=1
		header_up X-Apideck-Trace yes
		header_up X-Forwarded-For 192.0.2.1
		header_up Authorization operator
		header_up Host api.acme.test`)
	handler := run(t, caddyfile)
	importToken(t, handler, "crm/acme", "access-1")
	do(t, handler, "GET", "http://caller.test/", "", "X-Apideck-Consumer-Id", "jane", "Cookie", "caller=1")
	got := d.request(t)
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
	options, _ := globals(t, brokerLines(t, t.TempDir(), connectorLines("crm/acme", srv.URL, "allow_private")))
	handler := run(t, options+site(srv.URL, "crm/acme", "app my-app", ""))
	importToken(t, handler, "crm/acme", "access-1")
	resp := do(t, handler, "GET", "http://caller.test/", "", "X-Apideck-Consumer-Id", "jane")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %d: %s", resp.StatusCode, readAll(t, resp))
	}
	if got := (<-requests).Host; "http://"+got != srv.URL {
		t.Errorf("got host %s, want %s", got, srv.URL)
	}
}

func TestCallersAuthenticateWithoutApp(t *testing.T) {
	d := newDownstream(t, ok)
	caddyfile, _ := d.proxy(t, "", "")
	handler := run(t, caddyfile)
	importToken(t, handler, "crm/acme", "access-1")

	wantError(t, do(t, handler, "GET", "http://caller.test/", "", "X-Apideck-Consumer-Id", "jane"), 401, "UnauthorizedError")
	wantError(t, do(t, handler, "GET", "http://caller.test/", "", "Authorization", "Bearer wrong",
		"X-Apideck-App-Id", "my-app", "X-Apideck-Consumer-Id", "jane"), 401, "UnauthorizedError")
	d.wantNone(t)

	if resp := do(t, handler, "GET", "http://caller.test/", "", caller()...); resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %d: %s", resp.StatusCode, readAll(t, resp))
	}
	got := d.request(t)
	if got.Header.Get("Authorization") != "Bearer access-1" || got.Header.Get("X-Apideck-App-Id") != "" {
		t.Errorf("got %v", got.Header)
	}
}

func TestPlaceholdersChooseTheConnection(t *testing.T) {
	d := newDownstream(t, ok)
	caddyfile, _ := d.proxy(t, "app {http.request.header.x-application}\nconsumer {http.request.header.x-tenant}", "")
	caddyfile = strings.Replace(caddyfile, "transport token_broker crm/acme", "transport token_broker crm/{http.request.header.x-service}", 1)
	handler := run(t, caddyfile)
	importToken(t, handler, "crm/acme", "access-1")

	send := func(app, service, tenant string) *http.Response {
		return do(t, handler, "GET", "http://caller.test/", "", "X-Application", app, "X-Service", service, "X-Tenant", tenant)
	}
	if resp := send("my-app", "acme", "jane"); resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %d: %s", resp.StatusCode, readAll(t, resp))
	}
	got := d.request(t).Header
	if got.Get("Authorization") != "Bearer access-1" {
		t.Errorf("got %v", got)
	}
	for _, name := range []string{"X-Application", "X-Service", "X-Tenant"} {
		if got.Get(name) != "" {
			t.Errorf("downstream is told %s", name)
		}
	}
	wantError(t, send("other", "acme", "jane"), 401, "UnauthorizedError")
	wantError(t, send("my-app", "other", "jane"), 404, "ConnectorNotFoundError")
	wantError(t, send("my-app", "no name", "jane"), 404, "ConnectorNotFoundError")
	wantError(t, send("my-app", "acme", "john"), 404, "ConnectionNotFoundError")
	wantError(t, send("my-app", "acme", ""), 400, "RequestHeadersValidationError")
	d.wantNone(t)
}

func TestCredentialLeavesForAllowedHostsOnly(t *testing.T) {
	d := newDownstream(t, ok)
	localhost := strings.Replace(d.URL, "127.0.0.1", "localhost", 1)
	for name, tt := range map[string]struct{ connector, upstream string }{
		"another host":      {connectorLines("crm/acme", "https://api.acme.test", "allow_private"), d.URL},
		"another port":      {connectorLines("crm/acme", "https://127.0.0.1:1", "allow_private"), d.URL},
		"without TLS":       {connectorLines("crm/acme", localhost), strings.Replace(localhost, "https", "http", 1)},
		"a private address": {connectorLines("crm/acme", localhost), localhost},
		"an IP address":     {connectorLines("crm/acme", localhost, "allow_host localhost"), d.URL},
		"a Unix socket":     {connectorLines("crm/acme", localhost, "allow_private"), "unix//run/acme.sock"},
	} {
		t.Run(name, func(t *testing.T) {
			options, _ := globals(t, brokerLines(t, t.TempDir(), tt.connector))
			handler := run(t, options+site(tt.upstream, "crm/acme", "app my-app", ""))
			importToken(t, handler, "crm/acme", "access-1")
			wantError(t, do(t, handler, "GET", "http://caller.test/", "", "X-Apideck-Consumer-Id", "jane"), 403, "ForbiddenError")
			d.wantNone(t)
		})
	}
}

func TestDownstreamCannotForgeErrorsOrReflectCredentials(t *testing.T) {
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Token-Broker-Error", "ConnectionNotFoundError")
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusTeapot)
	})
	caddyfile, log := d.proxy(t, "app my-app", "")
	handler := run(t, caddyfile)
	importToken(t, handler, "crm/acme", "canary-access")
	resp := do(t, handler, "GET", "http://caller.test/", "", "X-Apideck-Consumer-Id", "jane")
	if resp.StatusCode != http.StatusTeapot || resp.Header.Get("X-Token-Broker-Error") != "" {
		t.Errorf("got status %d with %v", resp.StatusCode, resp.Header)
	}
	if echo := resp.Header.Get("X-Echo"); echo == "" || strings.Contains(echo, "canary") {
		t.Errorf("got X-Echo %q", echo)
	}
	if strings.Contains(logged(t, log), "canary") {
		t.Error("the log shows the credential")
	}
}

func TestErrorsDoNotCountAgainstTheUpstream(t *testing.T) {
	d := newDownstream(t, ok)
	caddyfile, _ := d.proxy(t, "app my-app", "fail_duration 1h\nmax_fails 1")
	handler := run(t, caddyfile)
	for range 3 {
		wantError(t, do(t, handler, "GET", "http://caller.test/", "", "X-Apideck-Consumer-Id", "jane"), 404, "ConnectionNotFoundError")
	}
	importToken(t, handler, "crm/acme", "access-1")
	if resp := do(t, handler, "GET", "http://caller.test/", "", "X-Apideck-Consumer-Id", "jane"); resp.StatusCode != http.StatusOK {
		t.Errorf("got status %d: %s", resp.StatusCode, readAll(t, resp))
	}
}

func TestDownstreamIsASpanOfItsOwn(t *testing.T) {
	d := newDownstream(t, ok)
	caddyfile, _ := d.proxy(t, "app my-app", "")
	handler := run(t, caddyfile)
	importToken(t, handler, "crm/acme", "canary-access")

	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	ctx, parent := provider.Tracer("test").Start(context.Background(), "server")
	req := httptest.NewRequest(http.MethodGet, "http://caller.test/secret-path?key=canary-query", nil).WithContext(ctx)
	req.Header.Set("X-Apideck-Consumer-Id", "jane")
	req.Header.Set("Tracestate", "caller=1")
	handler.ServeHTTP(httptest.NewRecorder(), req)
	parent.End()

	sent := propagation.TraceContext{}.Extract(context.Background(), propagation.HeaderCarrier(d.request(t).Header))
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
