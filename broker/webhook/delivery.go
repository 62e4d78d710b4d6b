package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/guard"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/internal/retryafter"
)

const (
	tracerName = "github.com/tokenbroker/caddy-token-broker/broker/webhook"
	userAgent  = "token-broker-webhook/1"
	// maxResponse bounds how much of a response is read and discarded, in bytes. Reading it
	// lets the connection be reused.
	maxResponse = 64 << 10
)

// A delivery sends one event to one endpoint, in one or more attempts. The goroutine that
// runs it owns it.
type delivery struct {
	dispatcher *Dispatcher
	endpoint   *endpoint
	event      *record.Event
	origin     trace.Span // the span in which the event was emitted
	begun      time.Time  // when the event was emitted
}

// An outcome is the result of an attempt.
type outcome struct {
	status     int           // HTTP status, 0 if there was no response
	fault      string        // the class of the error, empty after success
	retryAfter time.Duration // from the Retry-After header, 0 if there was none
}

func (o outcome) ok() bool { return o.status >= 200 && o.status < 300 }

// run makes attempts until one succeeds, no more are allowed, or the endpoint or process ends.
func (d *delivery) run() {
	for attempt := 1; ; attempt++ {
		if !d.enter() {
			d.abandon("the endpoint was removed, or the shutdown timed out")
			return
		}
		result := d.attempt(attempt)
		<-d.endpoint.inFlight
		log := d.log().With(slog.Int("attempt", attempt), result.attr())
		if result.ok() {
			log.Debug("webhook delivered")
			return
		}
		wait, again := nextAttempt(attempt, time.Since(d.begun), result.retryAfter)
		if !again {
			log.Error("webhook not delivered: giving up")
			return
		}
		log.Warn("webhook attempt failed", "next_in", wait.Round(time.Second).String())
		if why := d.sleep(wait); why != "" {
			d.abandon(why)
			return
		}
	}
}

// enter waits for one of the endpoint's slots for attempts. It reports false if the endpoint
// was removed.
func (d *delivery) enter() bool {
	select {
	case d.endpoint.inFlight <- struct{}{}:
		return true
	case <-d.endpoint.ctx.Done():
		return false
	}
}

// sleep waits until the next attempt. If there will be none, it returns the reason.
func (d *delivery) sleep(wait time.Duration) string {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ""
	case <-d.endpoint.ctx.Done():
		return "the endpoint was removed"
	case <-d.dispatcher.closing:
		return "shutting down"
	}
}

// abandon logs a delivery that ends for a reason other than the endpoint's responses, and
// counts it if it was cut short by Close.
func (d *delivery) abandon(why string) {
	d.dispatcher.mu.Lock()
	if d.dispatcher.closed {
		d.dispatcher.unsent++
	}
	d.dispatcher.mu.Unlock()
	d.log().Warn("webhook not delivered", "reason", why)
}

func (d *delivery) log() *slog.Logger {
	return d.dispatcher.logger().With("event_id", d.event.ID, "event_type", string(d.event.Type),
		"connection", d.event.Connection.Key.String(), "endpoint", d.endpoint.current.Load().name)
}

func (o outcome) attr() slog.Attr {
	if o.status != 0 {
		return slog.Int("status", o.status)
	}
	return slog.String("error", o.fault)
}

// attempt posts the event once, in a new trace that links to the event's span.
func (d *delivery) attempt(n int) outcome {
	t := d.endpoint.current.Load()
	ctx, cancel := context.WithTimeout(d.endpoint.ctx, attemptTimeout)
	defer cancel()
	ctx, span := d.origin.TracerProvider().Tracer(tracerName).Start(ctx, "token_broker.webhook.deliver",
		trace.WithNewRoot(),
		trace.WithLinks(trace.Link{SpanContext: d.origin.SpanContext()}),
		trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(
			attribute.String("token_broker.event.type", string(d.event.Type)),
			attribute.String("token_broker.event.id", d.event.ID),
			attribute.Int("token_broker.webhook.attempt", n),
		))
	defer span.End()

	result := d.post(ctx, t, n, span)
	if result.status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", result.status))
	}
	if !result.ok() {
		span.SetStatus(codes.Error, result.fault)
	}
	return result
}

func (d *delivery) post(ctx context.Context, t *target, n int, span trace.Span) outcome {
	payload, err := body(d.event, n)
	if err != nil {
		return outcome{fault: "encoding"}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.URL, bytes.NewReader(payload))
	if err != nil {
		return outcome{fault: "request"}
	}
	span.SetAttributes(attribute.String("server.address", req.URL.Hostname()))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set(headerEventType, string(d.event.Type))
	req.Header.Set(headerSignature, signature(t.Secret, payload))
	req.Header.Set(headerIdempotencyKey, d.event.ID)

	resp, err := t.client.Do(req)
	if err != nil {
		return outcome{fault: classify(err)}
	}
	defer func() { _ = resp.Body.Close() }()
	// Errors of the body do not matter once the status has arrived.
	_, _ = io.CopyN(io.Discard, resp.Body, maxResponse)
	result := outcome{status: resp.StatusCode, retryAfter: retryafter.Parse(resp.Header, time.Now())}
	if !result.ok() {
		result.fault = "status"
	}
	return result
}

// classify returns the class of an error. The error itself contains the URL.
func classify(err error) string {
	var dnsErr *net.DNSError
	var certErr *tls.CertificateVerificationError
	var opErr *net.OpError
	switch {
	case errors.Is(err, guard.ErrAddressNotAllowed):
		return "address_not_allowed"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.As(err, &dnsErr):
		return "dns"
	case errors.As(err, &certErr):
		return "certificate"
	case errors.As(err, &opErr):
		return "connection"
	default:
		return "protocol"
	}
}
