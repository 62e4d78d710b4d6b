package proxy

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

// A trace of a Proxy API request continues from the server's span to downstream.
func TestProxyIsTraced(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Forward(t, "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "canary-access")

	exporter := tracetest.NewInMemoryExporter()
	ctx, parent := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter)).Tracer("test").Start(context.Background(), "server")
	req := httptest.NewRequest(http.MethodGet, "http://broker/proxy", nil).WithContext(ctx)
	for headers := caddytest.Call(d.URL+"/secret-path?key=canary-query", "Tracestate", "caller=1", "Baggage", "user=jane"); len(headers) > 0; headers = headers[2:] {
		req.Header.Set(headers[0], headers[1])
	}
	handler.ServeHTTP(httptest.NewRecorder(), req)
	parent.End()

	got := d.Request(t).Header
	told := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), propagation.HeaderCarrier(got)))
	if got.Get("Baggage") != "" || told.TraceID() != parent.SpanContext().TraceID() {
		t.Errorf("downstream was told %v and baggage %q, want trace %s and none", told, got.Get("Baggage"), parent.SpanContext().TraceID())
	}
	seen := make(map[string]bool)
	for _, span := range exporter.GetSpans() {
		seen[span.Name] = true
		if text := fmt.Sprint(span.Name, span.Attributes, span.Status); strings.Contains(text, "canary") || strings.Contains(text, "jane") || strings.Contains(text, "secret-path") {
			t.Errorf("the span shows too much: %s", text)
		}
		if span.Name == "token_broker.downstream" && (span.Parent.TraceID() != parent.SpanContext().TraceID() || span.SpanContext.SpanID() != told.SpanID()) {
			t.Errorf("downstream was told of span %s, want %s", told.SpanID(), span.SpanContext.SpanID())
		}
	}
	if !seen["token_broker.inject"] || !seen["token_broker.downstream"] {
		t.Errorf("the spans are %v, want token_broker.inject and token_broker.downstream among them", seen)
	}
}
