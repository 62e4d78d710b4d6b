//go:build unix

package transport

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

// BenchmarkTransport sends requests in turns through reverse_proxy with this transport and with
// Caddy's own. It reports the median ratio of the CPU time of neighbouring turns, which includes
// that of downstream and of the garbage collector, and what ours allocates more for each.
func BenchmarkTransport(b *testing.B) {
	for _, tt := range []struct {
		name, protocol string
		body           int
	}{
		{"GET", "http/1.1", 0},
		{"GET over HTTP2", "h2", 0},
		{"POST of 64 KiB", "http/1.1", 64 << 10},
		{"POST of 1 MiB", "http/1.1", 1 << 20},
	} {
		b.Run(tt.name, func(b *testing.B) {
			sides := newSides(b, tt.protocol)
			body := make([]byte, tt.body)
			const requests = 100 // of a turn
			var before, after runtime.MemStats
			var mallocs, allocated [2]uint64
			var ratios []float64
			for b.Loop() {
				var spent [2]float64
				for i, side := range sides {
					runtime.ReadMemStats(&before)
					start := caddytest.CPUTime()
					for range requests {
						side(b, body)
					}
					spent[i] = float64(caddytest.CPUTime() - start)
					runtime.ReadMemStats(&after)
					mallocs[i] += after.Mallocs - before.Mallocs
					allocated[i] += after.TotalAlloc - before.TotalAlloc
				}
				ratios = append(ratios, spent[1]/spent[0])
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "cpu-ratio")
			b.ReportMetric(float64(int64(mallocs[1]-mallocs[0]))/float64(requests*b.N), "more-allocs")
			b.ReportMetric(float64(int64(allocated[1]-allocated[0]))/float64(requests*b.N), "more-B")
		})
	}
}

// newSides returns functions that send a request through Caddy's transport and through ours.
func newSides(b *testing.B, protocol string) [2]func(b *testing.B, body []byte) {
	b.Helper()
	downstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
	}))
	downstream.EnableHTTP2 = protocol == "h2"
	if protocol == "h2" {
		downstream.StartTLS()
	} else {
		downstream.Start()
	}
	b.Cleanup(downstream.Close)
	trust := ""
	if protocol == "h2" {
		ca := filepath.Join(b.TempDir(), "ca.pem")
		if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: downstream.Certificate().Raw}), 0o600); err != nil {
			b.Fatal(err)
		}
		trust = "tls_trust_pool file {\npem_file " + ca + "\n}"
	}
	options, _ := caddytest.Globals(b, caddytest.BrokerLines(b, b.TempDir(), caddytest.ConnectorLines("crm/acme", downstream.URL, "allow_private")))
	handler := caddytest.Run(b, strings.Replace(options, "level DEBUG", "level INFO", 1)+fmt.Sprintf(`http:// {
		connections_api
		handle /plain {
			reverse_proxy %[1]s {
				transport http {
					%[2]s
				}
			}
		}
		handle /ours {
			reverse_proxy %[1]s {
				transport token_broker crm/acme {
					app my-app
					%[2]s
				}
			}
		}
	}`, downstream.URL, trust))
	caddytest.ImportToken(b, handler, "crm/acme", strings.Repeat("x", 40))
	var sides [2]func(b *testing.B, body []byte)
	for i, path := range []string{"/plain", "/ours"} {
		sides[i] = func(b *testing.B, body []byte) {
			req := httptest.NewRequest(http.MethodGet, "http://broker"+path, nil)
			if len(body) > 0 {
				req = httptest.NewRequest(http.MethodPost, "http://broker"+path, bytes.NewReader(body))
			}
			req.Header["X-Apideck-Consumer-Id"] = []string{"jane"}
			req.Header["Accept"] = []string{"application/json"}
			w := discard{make(http.Header)}
			handler.ServeHTTP(w, req)
			if w.Header().Get("Content-Type") != "application/json" {
				b.Fatal(w.header)
			}
		}
	}
	return sides
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}
