package tests

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// A refusingServer is an HTTP/2 downstream that processes two requests of each connection and
// refuses the third.
type refusingServer struct {
	address, ca string
	refuse      func(framer *http2.Framer, stream, last uint32) error

	mu      sync.Mutex
	bodies  []string // guarded by mu; of the requests that it has processed
	refused int      // guarded by mu
}

// newRefusingServer starts a server that refuses requests with refuse.
func newRefusingServer(t testing.TB, refuse func(framer *http2.Framer, stream, last uint32) error) *refusingServer {
	t.Helper()
	certified := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	defer certified.Close()
	s := &refusingServer{refuse: refuse, ca: filepath.Join(t.TempDir(), "ca.pem")}
	writeFile(t, s.ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certified.Certificate().Raw})))
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certified.TLS.Certificates, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	s.address = listener.Addr().String()
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			work.Go(func() { s.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		work.Wait()
	})
	return s
}

func (s *refusingServer) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(waitTimeout / 2))
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil {
		return
	}
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(); err != nil {
		return
	}
	bodies := make(map[uint32]string)
	for count, last := 0, uint32(0); ; {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		stream, ended := frame.Header().StreamID, false
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				err = framer.WriteSettingsAck()
			}
		case *http2.HeadersFrame:
			if count++; count%3 == 0 {
				s.mu.Lock()
				s.refused++
				s.mu.Unlock()
				err = s.refuse(framer, stream, last)
				break
			}
			last, ended = stream, frame.StreamEnded()
			bodies[stream] = ""
		case *http2.DataFrame:
			if body, ok := bodies[stream]; ok {
				bodies[stream], ended = body+string(frame.Data()), frame.StreamEnded()
			}
		}
		if ended && err == nil {
			s.mu.Lock()
			s.bodies = append(s.bodies, bodies[stream])
			s.mu.Unlock()
			err = answerOK(framer, stream)
		}
		if err != nil {
			return
		}
	}
}

func answerOK(framer *http2.Framer, stream uint32) error {
	var block bytes.Buffer
	if err := hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"}); err != nil {
		return err
	}
	return framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
}

// newHTTP2Scene starts a process whose connector crm/near is at the address over TLS, and whose
// listeners take HTTP/2 without TLS.
func newHTTP2Scene(t testing.TB, address, ca string) *attackScene {
	t.Helper()
	pool := fmt.Sprintf("tls_trust_pool file {\npem_file %s\n}", ca)
	p := newDeployment(t, oauthserver.Config{}).onDisk().startWays(t, wayOptions{
		global: "servers {\nprotocols h1 h2c\n}", base: "https://" + address, upstream: "https://" + address, proxy: pool, transport: pool,
	})
	return &attackScene{process: p, good: &rawServer{address: address}, evil: newRawServer(t, "127.0.0.1")}
}

// wayOptions are lines of a Caddyfile with both ways.
type wayOptions struct{ global, base, upstream, proxy, transport string }

// startWays starts a process with the connectors crm/near, with a token, and crm/windows, whose
// credential authenticates a connection. Both are at the base URL.
func (d *deployment) startWays(t testing.TB, options wayOptions) *process {
	t.Helper()
	ports := ports{freePort(t), freePort(t), freePort(t)}
	p := d.runCaddyfile(t, ports, fmt.Sprintf(`{
	admin 127.0.0.1:%d
	%s
	token_broker {
		storage embedded
		app %[3]s {
			api_key %[4]s
		}
		connector crm/near {
			auth_type oauth2
			auth_style header
			token_url http://127.0.0.1:1/token
			client_id near
			base_url %[5]s
			allow_private
		}
		connector crm/windows {
			auth_type apiKey
			base_url %[5]s
			inject header Authorization "NTLM %%s"
			allow_private
		}
	}
}

http://127.0.0.1:%[6]d {
	bind 127.0.0.1
	connections_api
	downstream_proxy {
		%[7]s
	}
}

http://127.0.0.1:%[8]d {
	bind 127.0.0.1
	reverse_proxy %[9]s {
		fail_duration 30s
		transport token_broker crm/{http.request.header.x-connector} {
			app %[3]s
			%[10]s
		}
	}
}
`, ports.Admin, options.global, application, d.secretFile(t, "api-key", d.apiKey), options.base, ports.API, options.proxy,
		ports.Sidecar, options.upstream, options.transport))
	p.awaitReady(t)
	return p
}
