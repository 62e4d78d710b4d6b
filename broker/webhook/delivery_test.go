package webhook

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/guard"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func TestEachAttemptIsARootSpanLinkedToTheEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		spans := tracetest.NewSpanRecorder()
		provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
		first := true
		d, _ := start(t, &receiver{answer: func(*http.Request) (int, http.Header) {
			if first {
				first = false
				return 503, http.Header{}
			}
			return 200, http.Header{}
		}})
		ctx, cause := provider.Tracer("test").Start(t.Context(), "refresh")
		d.Emit(ctx, testEvent("event-1"))
		cause.End()
		time.Sleep(4 * time.Minute)
		synctest.Wait()

		ended := spans.Ended()
		if len(ended) != 3 {
			t.Fatalf("got %d spans, want the event's and two attempts", len(ended))
		}
		for i, s := range ended[1:] {
			if s.Name() != "token_broker.webhook.deliver" || s.SpanKind() != trace.SpanKindClient {
				t.Errorf("attempt %d: span %s of kind %s", i+1, s.Name(), s.SpanKind())
			}
			if s.Parent().IsValid() || s.SpanContext().TraceID() == cause.SpanContext().TraceID() {
				t.Errorf("attempt %d is not a root span", i+1)
			}
			if len(s.Links()) != 1 || !s.Links()[0].SpanContext.Equal(cause.SpanContext()) {
				t.Errorf("attempt %d: links %v", i+1, s.Links())
			}
			got := make(map[attribute.Key]attribute.Value)
			for _, a := range s.Attributes() {
				got[a.Key] = a.Value
			}
			want := map[attribute.Key]attribute.Value{
				"token_broker.event.type":      attribute.StringValue("vault.connection.token_refresh.failed"),
				"token_broker.event.id":        attribute.StringValue("event-1"),
				"token_broker.webhook.attempt": attribute.IntValue(i + 1),
				"server.address":               attribute.StringValue("ops.example.com"),
				"http.response.status_code":    attribute.IntValue([]int{503, 200}[i]),
			}
			if len(got) != len(want) {
				t.Errorf("attempt %d: attributes %v", i+1, got)
			}
			for k, v := range want {
				if got[k] != v {
					t.Errorf("attempt %d: %s is %v, want %v", i+1, k, got[k], v)
				}
			}
		}
		if got := ended[1].Status().Code; got != codes.Error {
			t.Errorf("the failed attempt has status %s", got)
		}
		if err := d.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// faults is a log handler that forwards the error or status of each attempt.
type faults chan string

func (f faults) Enabled(context.Context, slog.Level) bool { return true }

func (f faults) Handle(_ context.Context, _ slog.Record) error { return nil }

func (f faults) WithGroup(string) slog.Handler { return f }

func (f faults) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		if a.Key == "error" || a.Key == "status" {
			f <- a.Value.String()
		}
	}
	return f
}

func TestOverTheNetwork(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- signature(secret.New("s"), b)
		got <- r.Header.Get("x-apideck-signature")
	}))
	defer srv.Close()
	tls := httptest.NewTLSServer(http.NotFoundHandler())
	defer tls.Close()

	tests := []struct {
		e    Endpoint
		want string
	}{
		{Endpoint{URL: srv.URL, Secret: secret.New("s"), AllowPrivate: true}, "200"},
		{Endpoint{URL: tls.URL, Secret: secret.New("s")}, "address_not_allowed"},
		{Endpoint{URL: tls.URL, Secret: secret.New("s"), AllowPrivate: true}, "certificate"},
	}
	for _, tt := range tests {
		outcome := make(faults, 1)
		d := New()
		if err := d.Configure(Config{Endpoints: []Endpoint{tt.e}, Logger: slog.New(outcome)}); err != nil {
			t.Fatal(err)
		}
		d.Emit(t.Context(), testEvent("e"))
		if tt.want == "200" {
			if want, sent := <-got, <-got; sent != want {
				t.Errorf("signature %s, want %s", sent, want)
			}
		}
		if got := <-outcome; got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.e.URL, got, tt.want)
		}
		_ = stop(d)
	}
}

func TestErrorsAreClassified(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		want string
	}{
		{guard.ErrAddressNotAllowed, "address_not_allowed"}, {context.DeadlineExceeded, "timeout"}, {context.Canceled, "canceled"}, {errors.New("x"), "protocol"},
	} {
		if got := classify(tt.err); got != tt.want {
			t.Errorf("%v: got %s, want %s", tt.err, got, tt.want)
		}
	}
}
