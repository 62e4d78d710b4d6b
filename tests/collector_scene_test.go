package tests

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// A collector receives spans (OTLP over HTTP).
type collector struct {
	mu    sync.Mutex
	spans []*tracev1.Span // guarded by mu
	raw   [][]byte        // guarded by mu; each request body, as received and as JSON
}

// collectTraces makes the deployment's processes export their spans with little delay.
func (d *deployment) collectTraces(t testing.TB) *collector {
	t.Helper()
	c := &collector{}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	d.env = append(d.env, "OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
		"OTEL_EXPORTER_OTLP_ENDPOINT="+server.URL, "OTEL_BSP_SCHEDULE_DELAY=100")
	return c
}

// ServeHTTP implements [http.Handler].
func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	export := &collectortrace.ExportTraceServiceRequest{}
	if err == nil && r.URL.Path == "/v1/traces" {
		err = proto.Unmarshal(body, export)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, "want an export of traces", http.StatusBadRequest)
		return
	}
	text, err := protojson.Marshal(export)
	if err != nil {
		panic(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw = append(c.raw, body, text)
	for _, resource := range export.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// everything returns all requests, for tests to search.
func (c *collector) everything() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Join(c.raw, []byte("\n"))
}

// named returns the spans with a name.
func (c *collector) named(name string) []*tracev1.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.spans), func(s *tracev1.Span) bool { return s.Name != name })
}

// await waits for a span with the name for which is returns true.
func (c *collector) await(t testing.TB, name string, is func(*tracev1.Span) bool) *tracev1.Span {
	t.Helper()
	var found *tracev1.Span
	eventually(t, "the span "+name, func() error {
		spans := c.named(name)
		if i := slices.IndexFunc(spans, is); i >= 0 {
			found = spans[i]
			return nil
		}
		return fmt.Errorf("there are %d spans of that name, none of them as wanted", len(spans))
	})
	return found
}

// anySpan accepts every span; see [collector.await].
func anySpan(*tracev1.Span) bool { return true }
