package tests

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// A server such as nginx ends a connection after so many requests. Those that it did not process
// can be sent again, whatever their method (RFC 9113 sections 6.8 and 8.7).
func TestRequestThatDownstreamDidNotProcessIsSentAgain(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]func(framer *http2.Framer, stream, last uint32) error{
		"GOAWAY": func(framer *http2.Framer, _, last uint32) error {
			return framer.WriteGoAway(last, http2.ErrCodeNo, nil)
		},
		"REFUSED_STREAM": func(framer *http2.Framer, stream, _ uint32) error {
			return framer.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			downstream := newRefusingServer(t, refuse)
			s := newHTTP2Scene(t, downstream.address, downstream.ca)
			for _, w := range ways {
				s.consumer = "jane"
				s.importInto(t, "near", "").connection(t)
				var sent []string
				for i, line := range []string{"", "", "", "Idempotency-Key: 1", "", "", "", "", "X-More: 1"} {
					body := fmt.Sprintf("%s body %d", w.name, i)
					method := []string{http.MethodPost, http.MethodPut, http.MethodPatch}[i%3]
					framing, text := fmt.Sprintf("Content-Length: %d", len(body)), body
					if i%2 == 0 {
						framing, text = "Transfer-Encoding: chunked", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
					}
					lines := []string{"Connection: close", framing}
					if line != "" {
						lines = append(lines, line)
					}
					address, head := w.request(s, "near", method, "https://"+downstream.address+"/x", lines...)
					if answer := sendRaw(t, address, head+"\r\n"+text); !slices.Equal(statuses(answer), []int{http.StatusOK}) {
						t.Errorf("%s, %s %d: the response is %q, want 200", w.name, method, i, answer)
					}
					sent = append(sent, body)
				}
				downstream.mu.Lock()
				if !slices.Equal(downstream.bodies, sent) || downstream.refused == 0 {
					t.Errorf("%s: downstream refused %d and got %q, want each of %q once", w.name, downstream.refused, downstream.bodies, sent)
				}
				downstream.bodies, downstream.refused = nil, 0
				downstream.mu.Unlock()
			}
		})
	}
}

// HTTP/2 carries a space in :path; in the request line of HTTP/1.1 it would be its end.
func TestSpacesOfHTTP2StayInTheQuery(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	downstream := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r.RequestURI }))
	defer downstream.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	writeFile(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: downstream.Certificate().Raw})))
	s := newHTTP2Scene(t, downstream.Listener.Addr().String(), ca)
	s.consumer = "jane"
	s.importInto(t, "near", "").connection(t)
	client := &http.Client{Transport: &http.Transport{Protocols: new(http.Protocols)}, Timeout: waitTimeout}
	client.Transport.(*http.Transport).Protocols.SetUnencryptedHTTP2(true)
	for target, want := range map[string]string{
		"/x?a=b HTTP/1.1": "/x?a=b%20HTTP/1.1", "/x?a b&c=d e": "/x?a%20b&c=d%20e", "/a b%2Fc?d": "/a%20b%2Fc?d", "/x?a#b": "/x?a%23b",
	} {
		path, query, _ := strings.Cut(target, "?")
		for address, prefix := range map[string]string{s.sidecarURL(""): "", s.apiURL(""): "/proxy"} {
			host := strings.TrimPrefix(address, "http://")
			req := &http.Request{
				Method: http.MethodGet, Host: host, URL: &url.URL{Scheme: "http", Host: host, Opaque: prefix + path, RawQuery: query},
				Header: s.deployment.apiHeader("jane"),
			}
			req.Header.Set("X-Connector", "near")
			req.Header.Set("X-Apideck-Unified-Api", "crm")
			req.Header.Set("X-Apideck-Service-Id", "near")
			req.Header.Set("X-Apideck-Downstream-Url", "https://"+s.good.address)
			resp, err := client.Do(req.WithContext(t.Context()))
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			select {
			case uri := <-got:
				if uri != want {
					t.Errorf("%s%s: downstream got %s, want %s", prefix, target, uri, want)
				}
			default:
				t.Errorf("%s%s: the response is %v, and downstream got nothing", prefix, target, resp)
			}
		}
	}
}
