// Package tracing makes the spans of the broker. A span names the connector and the type of
// an error, never a customer.
package tracing

import (
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/tokenendpoint"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// scopeName is the instrumentation scope of the broker's spans.
const scopeName = "github.com/tokenbroker/caddy-token-broker/broker"

// Tracer finds the tracer provider for spans. The host's provider is not the global one, so
// it is taken from the span in the context. Background work uses the provider of the latest
// traced request; before the first one, nothing is recorded.
type Tracer struct {
	latest atomic.Pointer[trace.TracerProvider]
}

// IsTraced reports whether ctx belongs to a trace. If not, callers need not even build the
// attributes of a span.
func IsTraced(ctx context.Context) bool { return trace.SpanFromContext(ctx).SpanContext().IsValid() }

// Start begins a span as a child of the span in ctx.
func (t *Tracer) Start(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.SpanContext().IsValid() {
		return ctx, noop.Span{}
	}
	provider := parent.TracerProvider()
	if latest := t.latest.Load(); latest == nil || *latest != provider {
		t.latest.Store(&provider)
	}
	return provider.Tracer(scopeName).Start(ctx, name, opts...)
}

// StartRoot begins the span of background work: a root span, linked to the span in cause,
// which may have ended long ago.
func (t *Tracer) StartRoot(ctx, cause context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	var provider trace.TracerProvider
	link := trace.LinkFromContext(cause)
	if link.SpanContext.IsValid() {
		provider = trace.SpanFromContext(cause).TracerProvider()
		opts = append(opts, trace.WithLinks(link))
	} else if latest := t.latest.Load(); latest != nil {
		provider = *latest
	} else {
		return ctx, noop.Span{}
	}
	return provider.Tracer(scopeName).Start(ctx, name, append(opts, trace.WithNewRoot())...)
}

// EndSpan ends the span. If err is not nil, the span is marked as failed with err's type,
// but without its text, which may name customers.
func EndSpan(span trace.Span, err error) {
	if err != nil {
		kind := errorType(err)
		span.SetAttributes(attribute.String("error.type", kind))
		span.SetStatus(codes.Error, kind)
	}
	span.End()
}

// ConnectorAttribute names the connector of a span. Spans never name customers.
func ConnectorAttribute(key record.Key) attribute.KeyValue {
	return attribute.String("token_broker.connector", key.Connector.String())
}

// errorType returns the value of OpenTelemetry's attribute error.type, which must have low
// cardinality.
func errorType(err error) string {
	var input *record.InputError
	var token *record.TokenError
	switch {
	case errors.As(err, &input):
		return "invalid_input"
	case errors.Is(err, record.ErrStoreUnavailable):
		return "store_unavailable"
	case errors.As(err, &token):
		return string(token.Class)
	case errors.Is(err, record.ErrNotFound), errors.Is(err, record.ErrConnectionNotFound):
		return "connection_not_found"
	case errors.Is(err, record.ErrConnectorNotFound):
		return "connector_not_found"
	case errors.Is(err, record.ErrConsumerNotFound):
		return "consumer_not_found"
	case errors.Is(err, tokenendpoint.ErrRevokeLater), errors.Is(err, tokenendpoint.ErrRevokeRefused), errors.Is(err, tokenendpoint.ErrRevokeURL), errors.Is(err, tokenendpoint.ErrRevokeTarget):
		return "not_revoked"
	case errors.Is(err, record.ErrConflict):
		return "conflict"
	case errors.Is(err, record.ErrConnectionDisabled):
		return "connection_disabled"
	case errors.Is(err, record.ErrHostNotAllowed):
		return "host_not_allowed"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	default:
		return "_OTHER"
	}
}
