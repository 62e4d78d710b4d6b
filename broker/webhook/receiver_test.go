package webhook

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

const hookURL = "https://ops.example.com/hooks/path-s3cret?key=query-s3cret"

// A receiver plays all endpoints. answer returns its response to a request.
type receiver struct {
	answer func(*http.Request) (int, http.Header)

	mu       sync.Mutex
	received []received // guarded by mu
}

type received struct {
	at      time.Time
	url     string
	header  http.Header
	body    []byte
	attempt int
}

func (r *receiver) RoundTrip(req *http.Request) (*http.Response, error) {
	b, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	var parsed struct {
		Payload struct {
			ExecutionAttempt int `json:"execution_attempt"`
		} `json:"payload"`
	}
	if err := json.Unmarshal(b, &parsed); err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.received = append(r.received, received{time.Now(), req.URL.String(), req.Header, b, parsed.Payload.ExecutionAttempt})
	r.mu.Unlock()
	status, header := r.answer(req)
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader("response-s3cret")), Request: req}, nil
}

func (r *receiver) all() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]received(nil), r.received...)
}

func always(status int) func(*http.Request) (int, http.Header) {
	return func(*http.Request) (int, http.Header) { return status, http.Header{} }
}

// hang is an endpoint that never answers.
func hang(req *http.Request) (int, http.Header) {
	<-req.Context().Done()
	return 0, nil
}

func start(t *testing.T, r *receiver, endpoints ...Endpoint) (*Dispatcher, *brokertest.Log) {
	t.Helper()
	log := &brokertest.Log{}
	d := New()
	d.newTransport = func(bool) http.RoundTripper { return r }
	if endpoints == nil {
		endpoints = []Endpoint{{URL: hookURL, Secret: secret.New("hook-s3cret")}}
	}
	handler := slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})
	if err := d.Configure(Config{Endpoints: endpoints, Logger: slog.New(handler)}); err != nil {
		t.Fatal(err)
	}
	return d, log
}

// stop closes the dispatcher without waiting for attempts.
func stop(d *Dispatcher) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return d.Close(ctx)
}
