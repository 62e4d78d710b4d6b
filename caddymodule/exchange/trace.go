package exchange

import (
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// scopeName is the instrumentation scope of the module's spans.
const scopeName = "github.com/tokenbroker/caddy-token-broker/caddymodule"

// send sends out, in a span of its own if the request is traced at all. Caddy's
// provider is not the global one, so it is asked for by way of the request's span.
func (x *Exchange) send(out *http.Request) (*http.Response, error) {
	if !x.Admission.IsTraced() {
		return x.Via.RoundTrip(out)
	}
	parent := trace.SpanFromContext(out.Context())
	ctx, span := parent.TracerProvider().Tracer(scopeName).Start(out.Context(), "token_broker.downstream",
		trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(
			attribute.String("token_broker.connector", x.Admission.Key().Connector.String()),
			attribute.String("http.request.method", out.Method),
			attribute.String("server.address", out.URL.Hostname()),
		))
	defer span.End()
	out = out.WithContext(ctx)
	// The headers name the server's span, and downstream hangs off this one.
	out.Header.Del("Traceparent")
	out.Header.Del("Tracestate")
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(out.Header))

	resp, err := x.Via.RoundTrip(out)
	if err != nil {
		// Without the text, which can name hosts of customers.
		span.SetAttributes(attribute.String("error.type", "connection"))
		span.SetStatus(codes.Error, "no response")
		return nil, err
	}
	span.SetAttributes(attribute.Int("http.response.status_code", resp.StatusCode))
	if resp.StatusCode >= http.StatusBadRequest {
		span.SetStatus(codes.Error, "")
	}
	return resp, nil
}
