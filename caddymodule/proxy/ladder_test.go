//go:build unix

package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/exchange"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/fields"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

// A rung is a part of what the Proxy API does for a request. Each includes those before it.
type rung int

const (
	forwards   rung = iota // as the benchmark's contestant bare does
	finds                  // authenticates the caller, finds the connection, counts the request
	authorizes             // with the connection's credential, which is scrubbed from the response
	cleans                 // decides on every header of request and response
	hints                  // passes on 1xx responses
	limitsTime             // with a timeout for the response
	everything             // downstream_proxy
)

// A ladder handles requests up to the rung that is set.
type ladder struct {
	Handler
	transport *http.Transport
}

// reached is the rung of the next requests.
var reached rung

func init() {
	caddy.RegisterModule(&ladder{})
	httpcaddyfile.RegisterHandlerDirective("ladder", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) { return &ladder{}, nil })
}

// CaddyModule implements [caddy.Module].
func (*ladder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.ladder", New: func() caddy.Module { return new(ladder) }}
}

// Provision implements [caddy.Provisioner].
func (l *ladder) Provision(ctx caddy.Context) error {
	l.transport = &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 10}
	return l.Handler.Provision(ctx)
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler].
func (l *ladder) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	switch reached {
	case everything:
		return l.Handler.ServeHTTP(w, r, next)
	case forwards:
		l.forward(w, r)
		return nil
	default:
		return l.climb(w, r)
	}
}

// forward is the least that net/http can do.
func (l *ladder) forward(w http.ResponseWriter, r *http.Request) {
	out := r.Clone(r.Context())
	out.RequestURI, out.URL.Scheme, out.URL.Host = "", "http", r.Header.Get("To")
	out.Header.Del("To")
	out.Header.Set("Authorization", "Bearer "+token)
	resp, err := l.transport.RoundTrip(out)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	maps.Copy(w.Header(), resp.Header)
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

// climb does what the Proxy API does, up to the rung that is set.
func (l *ladder) climb(w http.ResponseWriter, r *http.Request) error {
	p := &passage{proxy: &l.Handler, caller: callersRequest{w: w, r: r}}
	var err error
	if p.callOptions, err = l.readOptions(r, ""); err != nil {
		return err
	}
	admission, u, err := l.app.Broker().AdmitCall(r.Context(), p.call)
	if err != nil {
		return err
	}
	defer admission.Release()
	ctx := r.Context()
	if reached >= limitsTime {
		c, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		ctx = c
		p.wait(cancel)
		defer p.stopWaiting()
	}
	x := &p.exchange
	*x = exchange.Exchange{Admission: admission, Via: l.pool(admission.AllowsPrivate()), Response: fields.Response{Policy: &l.policy, Caller: r, Scheme: u.Scheme, Host: u.Host, Path: u}}
	if reached >= hints {
		x.Early = p.answer.early(w)
		x.Hook(&p.trace)
		ctx = httptrace.WithClientTrace(ctx, &p.trace)
	}
	var out *http.Request
	if reached >= cleans {
		out = p.outgoing(ctx, &p.first, u)
	} else {
		out = (&http.Request{Method: r.Method, URL: u, Host: u.Host, Header: http.Header{"Accept": r.Header["Accept"], "User-Agent": r.Header["User-Agent"]}}).WithContext(ctx)
	}
	var auth *broker.Authorization
	if reached >= authorizes {
		if auth, err = admission.Authorize(out); err != nil {
			return err
		}
	} else {
		out.Header["Authorization"] = []string{"Bearer " + token}
	}
	resp, err := x.Via.Transport().RoundTrip(out)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if reached >= authorizes {
		auth.HandleResponse(resp)
	}
	if reached >= cleans {
		x.Response.Clean(resp.Header, auth)
		x.Response.Cache(resp.Header, out.Method)
		return p.respond(resp)
	}
	maps.Copy(w.Header(), resp.Header)
	w.WriteHeader(resp.StatusCode)
	_, err = io.Copy(w, resp.Body)
	return err
}

const token = "access-token-of-a-usual-length-0123456789"

// BenchmarkLadder sends requests over loopback, in turns: to a bare net/http proxy, to the same
// as a handler of Caddy, and to a handler that does more and more of what downstream_proxy does.
// It logs what CPU time and memory a request takes on each rung. The CPU time
// includes that of the client, of downstream, and of the garbage collector.
func BenchmarkLadder(b *testing.B) {
	downstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
	}))
	b.Cleanup(downstream.Close)
	globals, _ := caddytest.Globals(b, caddytest.BrokerLines(b, b.TempDir(), caddytest.ConnectorLines("crm/acme", downstream.URL, "allow_private")))
	handler := caddytest.Run(b, strings.Replace(globals, "level DEBUG", "level INFO", 1)+"http:// {\nroute {\nconnections_api\nladder\n}\n}")
	caddytest.ImportToken(b, handler, "crm/acme", token)
	bare := &ladder{transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 10}}
	servers := []*httptest.Server{httptest.NewServer(http.HandlerFunc(bare.forward)), httptest.NewServer(handler)}
	for _, server := range servers {
		b.Cleanup(server.Close)
	}
	const common = " HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\nUser-Agent: bench\r\n"
	plain := "GET /things" + common + "To: " + strings.TrimPrefix(downstream.URL, "http://") + "\r\n\r\n"
	var call strings.Builder
	call.WriteString("GET /proxy" + common)
	for header := range slices.Chunk(caddytest.Call(downstream.URL+"/things", "X-Apideck-Unified-Api", "crm"), 2) {
		call.WriteString(header[0] + ": " + header[1] + "\r\n")
	}
	call.WriteString("\r\n")
	steps := []struct {
		name   string
		rung   rung
		server *httptest.Server
		head   string
	}{
		{"bare", forwards, servers[0], plain},
		{"caddy", forwards, servers[1], plain},
		{"finds", finds, servers[1], call.String()},
		{"authorizes", authorizes, servers[1], call.String()},
		{"cleans", cleans, servers[1], call.String()},
		{"hints", hints, servers[1], call.String()},
		{"timeout", limitsTime, servers[1], call.String()},
		{"everything", everything, servers[1], call.String()},
	}
	conns := make([]*client, len(servers))
	for i, server := range servers {
		conns[i] = dialClient(b, server)
	}
	const requests = 200 // of a turn
	cpu, allocs, bytes := make([][]int64, len(steps)), make([]uint64, len(steps)), make([]uint64, len(steps))
	var before, after runtime.MemStats
	for b.Loop() {
		for i, step := range steps {
			reached = step.rung
			conn := conns[slices.Index(servers, step.server)]
			runtime.ReadMemStats(&before)
			start := caddytest.CPUTime()
			for range requests {
				conn.get(b, step.head)
			}
			cpu[i] = append(cpu[i], caddytest.CPUTime()-start)
			runtime.ReadMemStats(&after)
			allocs[i] += after.Mallocs - before.Mallocs
			bytes[i] += after.TotalAlloc - before.TotalAlloc
		}
	}
	for i, step := range steps {
		slices.Sort(cpu[i])
		b.Logf("%-10s %6.1f µs (fastest tenth), %6.1f µs (median), %5d allocations, %6d B", step.name,
			float64(cpu[i][len(cpu[i])/10])/requests/1e3, float64(cpu[i][len(cpu[i])/2])/requests/1e3,
			allocs[i]/uint64(b.N*requests), bytes[i]/uint64(b.N*requests))
	}
}

// A client is a connection with one request at a time.
type client struct {
	net.Conn
	responses *bufio.Reader
}

func dialClient(b *testing.B, server *httptest.Server) *client {
	b.Helper()
	conn, err := new(net.Dialer).DialContext(b.Context(), "tcp", server.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	return &client{conn, bufio.NewReader(conn)}
}

// get sends a request and reads its response, which must be downstream's.
func (c *client) get(b *testing.B, head string) {
	if _, err := io.WriteString(c.Conn, head); err != nil {
		b.Fatal(err)
	}
	status, err := c.responses.ReadSlice('\n')
	if err != nil || !strings.HasPrefix(string(status), "HTTP/1.1 200") {
		b.Fatalf("%q, %v", status, err)
	}
	for len(status) > 2 && err == nil {
		status, err = c.responses.ReadSlice('\n')
	}
	var body [2]byte
	if _, err := io.ReadFull(c.responses, body[:]); err != nil || string(body[:]) != "{}" {
		b.Fatal(fmt.Sprint(body), err)
	}
}
