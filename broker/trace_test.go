package broker_test

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
)

func TestEachStepIsASpan(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		spans := tracetest.NewInMemoryExporter()
		provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
		ctx, request := provider.Tracer("test").Start(t.Context(), "request")

		h.provider.Grant("r1")
		imp, err := apideck.ParseImport([]byte(`{"credentials":{"access_token":"a1","refresh_token":"r1",` + issued(2*time.Hour) + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Import(ctx, h.key, imp); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api.acme.test/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Authorize(req, h.key); err != nil {
			t.Fatal(err)
		}
		request.End()

		seen := make(map[string]tracetest.SpanStub)
		for _, span := range spans.GetSpans() {
			seen[span.Name] = span
			for _, attr := range span.Attributes {
				brokertest.NoCanary(t, "span "+span.Name, []byte(attr.Value.String()))
			}
		}
		for _, name := range []string{
			"token_broker.import", "token_broker.store.load", "token_broker.store.save",
			"token_broker.refresh", "token_broker.token_request", "token_broker.inject", "token_broker.store.destroy_earlier",
		} {
			if _, ok := seen[name]; !ok {
				t.Errorf("no span %s among %v", name, names(seen))
			}
		}
		parent := request.SpanContext()
		for _, name := range []string{"token_broker.import", "token_broker.inject"} {
			if got := seen[name].Parent.SpanID(); got != parent.SpanID() {
				t.Errorf("%s is not a child of the request", name)
			}
		}
		refresh := seen["token_broker.refresh"]
		if refresh.Parent.IsValid() || refresh.SpanContext.TraceID() == parent.TraceID() {
			t.Error("the background refresh is not the root of its trace")
		}
		if len(refresh.Links) != 1 || refresh.Links[0].SpanContext.SpanID() != seen["token_broker.import"].SpanContext.SpanID() {
			t.Errorf("the background refresh is not linked to the import: %v", refresh.Links)
		}
		if seen["token_broker.token_request"].Parent.SpanID() != refresh.SpanContext.SpanID() {
			t.Error("the token request is not a child of the refresh")
		}
	})
}

func TestFailedRefreshMarksItsSpan(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		spans := tracetest.NewInMemoryExporter()
		ctx, request := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)).Tracer("test").Start(t.Context(), "request")
		defer request.End()
		h.provider.Respond = func(int, url.Values) (*http.Response, error) {
			return nil, fmt.Errorf("dial %s", brokertest.RefreshCanary)
		}
		imp, err := apideck.ParseImport([]byte(`{"credentials":{"access_token":"a1","refresh_token":"r1"}}`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Import(ctx, h.key, imp); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, span := range spans.GetSpans() {
			brokertest.NoCanary(t, span.Name, fmt.Append(nil, span.Status, span.Attributes, span.Events))
			if span.Name == "token_broker.token_request" {
				if got := span.Status.Description; got != "ambiguous" {
					t.Errorf("got status %q, want ambiguous", got)
				}
				return
			}
		}
		t.Error("no span of the token request")
	})
}

func names(spans map[string]tracetest.SpanStub) []string {
	var names []string
	for name := range spans {
		names = append(names, name)
	}
	return names
}
