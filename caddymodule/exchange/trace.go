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

// send sends out, in its own span if the request is traced. Caddy's tracer provider is not
// the global one, so it is obtained from the request's span.
func (x *Exchange) send(out *http.Request) (*http.Response, error) {
	if !x.Admission.IsTraced() {
		return x.transport(out).RoundTrip(out)
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
	// The headers name the server's span; downstream is a child of this one.
	out.Header.Del("Traceparent")
	out.Header.Del("Tracestate")
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(out.Header))

	resp, err := x.transport(out).RoundTrip(out)
	if err != nil {
		// Without the text, which may name customers' hosts.
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

// transport returns the transport for a request with its credential.
func (x *Exchange) transport(out *http.Request) *http.Transport {
	if authenticatesConnection(out.Header) {
		return x.Via.boundFor(out.Context(), x.Admission.Key())
	}
	return x.Via.Transport()
}
