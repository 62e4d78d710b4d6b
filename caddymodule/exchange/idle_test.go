package exchange

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

// idleStreams is how many streams are open when their memory is measured.
const idleStreams = 200

// TestIdleStreamsTakeUpLittleMemory opens streams that are idle after a large event.
func TestIdleStreamsTakeUpLittleMemory(t *testing.T) {
	upstream, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = upstream.Close() })
	url := "http://" + upstream.Addr().String()
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(), caddytest.ConnectorLines("crm/acme", url, "allow_private"),
		"limits {\nconnection_concurrency off\n}"))
	handler := caddytest.Run(t, options+fmt.Sprintf("http:// {\nconnections_api\ndownstream_proxy\nreverse_proxy %s {\ntransport token_broker crm/acme\n}\n}", url))
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)

	for name, tt := range map[string]struct {
		request string
		most    int64 // bytes, fewer than with another buffer of 32 KiB
	}{
		"transport": {"GET / HTTP/1.1\r\nAuthorization: Bearer " + caddytest.Key + "\r\n", 130_000},
		"proxy": {
			"GET /proxy HTTP/1.1\r\nAuthorization: Bearer " + caddytest.Key + "\r\nX-Apideck-Service-Id: acme\r\nX-Apideck-Downstream-Url: " + url + "/\r\n",
			75_000,
		},
	} {
		t.Run(name, func(t *testing.T) {
			request := tt.request + "Host: broker\r\nX-Apideck-App-Id: my-app\r\nX-Apideck-Consumer-Id: jane\r\n\r\n"
			open := func() { openStream(t, srv.Listener.Addr(), upstream, request) }
			for range 10 { // fills pools and caches
				open()
			}
			before := memoryInUse()
			for range idleStreams {
				open()
			}
			each := (memoryInUse() - before) / idleStreams
			t.Logf("an idle stream takes up %d bytes", each)
			if each > tt.most {
				t.Errorf("an idle stream takes up %d bytes, want at most %d", each, tt.most)
			}
		})
	}
}

// openStream opens a stream that stays open until the test ends. The test is the client
// and downstream itself, without goroutines, so that their part of the memory is small.
func openStream(t *testing.T, broker net.Addr, upstream net.Listener, request string) {
	t.Helper()
	caller, err := net.Dial(broker.Network(), broker.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caller.Close() })
	deadline := time.Now().Add(caddytest.Deadline)
	if err := caller.SetDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	if _, err := caller.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	downstream, err := upstream.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = downstream.Close() })
	if err := downstream.SetDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	received, err := http.ReadRequest(bufio.NewReader(downstream))
	if err != nil || received.Header.Get("Authorization") != "Bearer access-1" {
		t.Fatalf("downstream got %v, %v", received, err)
	}
	event := "data: " + strings.Repeat("x", 2*smallBuffer) + "\n\n"
	if _, err := fmt.Fprintf(downstream, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(event), event); err != nil {
		t.Fatal(err)
	}
	for response := bufio.NewReader(caller); ; {
		line, err := response.ReadString('\n')
		if err != nil {
			t.Fatalf("the stream has no event: %v", err)
		}
		if strings.HasPrefix(line, "data:") {
			return
		}
	}
}

// memoryInUse returns the bytes of live objects and of stacks.
func memoryInUse() int64 {
	var stats runtime.MemStats
	for range 3 { // pools keep their content for one collection; stacks shrink at each
		runtime.GC()
	}
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc + stats.StackInuse)
}
