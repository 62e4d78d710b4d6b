//go:build unix

package transport

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

// canned answers in place of downstream.
type canned struct{}

// RoundTrip implements [http.RoundTripper].
func (canned) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: 2, Request: req,
		Header: http.Header{"Content-Type": {"application/json"}, "Content-Length": {"2"}, "Date": {"Mon, 02 Jan 2006 15:04:05 GMT"}},
		Body:   io.NopCloser(strings.NewReader("{}")),
	}, nil
}

// canDownstream makes all transports of the running configuration answer without a network. It
// puts a spy before ours, which it returns.
func canDownstream(b *testing.B) (s *spy) {
	b.Helper()
	app, err := caddy.ActiveContext().App("http")
	if err != nil {
		b.Fatal(err)
	}
	found := 0
	var visit func(routes caddyhttp.RouteList)
	visit = func(routes caddyhttp.RouteList) {
		for _, route := range routes {
			for _, handler := range route.Handlers {
				switch h := handler.(type) {
				case *caddyhttp.Subroute:
					visit(h.Routes)
				case *reverseproxy.Handler:
					switch rt := h.Transport.(type) {
					case *reverseproxy.HTTPTransport:
						rt.Transport.RegisterProtocol("http", canned{})
						found++
					case *Transport:
						rt.private.Transport().RegisterProtocol("http", canned{})
						s = &spy{Transport: rt}
						h.Transport = s
						found++
					}
				}
			}
		}
	}
	for _, server := range app.(*caddyhttp.App).Servers {
		visit(server.Routes)
	}
	if found != 2 {
		b.Fatalf("%d transports", found)
	}
	return s
}

// BenchmarkHandler is [BenchmarkTransport] without a network. It reports the CPU time of each
// side in the fastest tenth and in the median of all turns.
func BenchmarkHandler(b *testing.B) {
	sides := newSides(b, "http/1.1")
	canDownstream(b)
	names := [2]string{"plain", "ours"}
	var spent [2][]int64
	const requests = 300 // of a turn
	for b.Loop() {
		for i, side := range sides {
			pprof.Do(b.Context(), pprof.Labels("side", names[i]), func(context.Context) {
				start := caddytest.CPUTime()
				for range requests {
					side(b, nil)
				}
				spent[i] = append(spent[i], caddytest.CPUTime()-start)
			})
		}
	}
	for i, name := range names {
		slices.Sort(spent[i])
		b.ReportMetric(float64(spent[i][len(spent[i])/10])/requests, name+"-p10-ns")
		b.ReportMetric(float64(spent[i][len(spent[i])/2])/requests, name+"-p50-ns")
	}
}

// A spy keeps the request that reverse_proxy sends.
type spy struct {
	*Transport
	req *http.Request
}

// RoundTrip implements [http.RoundTripper].
func (s *spy) RoundTrip(req *http.Request) (*http.Response, error) {
	s.req = req
	return s.Transport.RoundTrip(req)
}

// BenchmarkRoundTrip sends a request of reverse_proxy through RoundTrip alone, without a network.
func BenchmarkRoundTrip(b *testing.B) {
	sides := newSides(b, "http/1.1")
	s := canDownstream(b)
	sides[1](b, nil)
	trace := httptrace.ContextClientTrace(s.req.Context())
	b.ReportAllocs()
	for b.Loop() {
		trace.Got1xxResponse = nil
		resp, err := s.Transport.RoundTrip(s.req)
		if err != nil {
			b.Fatal(err)
		}
		_ = resp.Body.Close()
	}
}
