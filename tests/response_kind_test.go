package tests

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// HTTP/1.0 has no 1xx responses (RFC 9110 section 15.2).
func TestHTTP10ClientsGetTheFinalResponseOnly(t *testing.T) {
	t.Parallel()
	s := newResponseScene(t)
	s.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</vault>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusProcessing)
		w.Header().Del("Link")
		_, _ = io.WriteString(w, "body")
	})
	for _, by := range bothSides {
		if got := s.raw(t, by, "1.0"); !strings.HasPrefix(got, "HTTP/1.0 200 ") || strings.Contains(got, "Early") {
			t.Errorf("%s: the response is %q, want 200 first", by.name, got)
		}
		// Others get it, with the link resolved.
		if got := s.raw(t, by, "1.1", "Connection: close"); !strings.HasPrefix(got, "HTTP/1.1 103 ") || !strings.Contains(got, "<"+s.service.URL+"/vault>") {
			t.Errorf("%s: the response is %q, want 103 first, with a link to downstream", by.name, got)
		}
	}
}

func TestNoContentTypeIsInvented(t *testing.T) {
	t.Parallel()
	s := newResponseScene(t)
	for _, flush := range []bool{false, true} {
		s.answers(func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = nil
			w.Header().Set("X-Content-Type-Options", "nosniff")
			if r.URL.Path == "/204" {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			if flush {
				_ = http.NewResponseController(w).Flush()
			}
			_, _ = io.WriteString(w, "<html><script>alert(1)</script>")
		})
		for _, by := range bothSides {
			for _, below := range []string{"/", "/204"} {
				resp := s.fetch(t, by, http.MethodGet, stream, below)
				body := readAll(t, resp)
				if types := resp.Header["Content-Type"]; len(types) > 0 || below == "/" && !strings.HasPrefix(body, "<html>") {
					t.Errorf("%s%s: the Content-Type is %q, want none; the body is %q", by.name, below, types, body)
				}
			}
		}
	}
}

func TestUnaskedProtocolSwitchIsABadGateway(t *testing.T) {
	t.Parallel()
	s := newResponseScene(t)
	for _, protocol := range []string{"websocket", "h2c", ""} {
		s.answers(func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			defer func() { _ = conn.Close() }()
			fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
		})
		for _, by := range bothSides {
			for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
				resp := s.fetch(t, by, method, stream, "/")
				if got := resp.Header.Get("X-Token-Broker-Error"); resp.StatusCode != http.StatusBadGateway || got != "ConnectorExecutionError" {
					t.Errorf("%s: %s, switched to %q, is answered %d %s; want 502 of the broker", by.name, method, protocol, resp.StatusCode, got)
				}
			}
		}
	}
}

func TestEscapedEchoesOfTheCredentialAreRedacted(t *testing.T) {
	t.Parallel()
	s := newResponseScene(t)
	for _, echo := range []string{
		sceneKey, `"sk\/live+the-key"`, `"sk\u002flive\u002Bthe-key"`, `"\u0073k/live+the-key"`, `sk&#47;live&plus;the-key`, `sk&#x2F;live+the-key`,
		`sk%2Flive%2Bthe-key`, `sk%2flive+the-key`, `sk%252Flive%252Bthe-key`, `{"next":"https:\/\/x.test?k=sk%2Flive%2Bthe-key"}`, `sk\x2flive+the-key`,
	} {
		s.sends(http.StatusOK, "X-Echo: "+echo, "Location: https://x.test/?q="+echo)
		for _, by := range bothSides {
			header := s.fetch(t, by, http.MethodGet, stream, "/").Header
			if got := header.Get("X-Echo"); !strings.Contains(got, "REDACTED") {
				t.Errorf("%s: the echo %s became %q", by.name, echo, got)
			}
			if got := header.Get("Location"); strings.Contains(got, "the-key") {
				t.Errorf("%s: the URL with %s became %q", by.name, echo, got)
			}
		}
	}
	if strings.Contains(s.log.String(), "the-key") {
		t.Error("the log shows the credential")
	}
}

// A WebSocket was opened with the connection's credential, and ends with the connection.
func TestWebSocketsEndWithTheirConnection(t *testing.T) {
	t.Parallel()
	s := newResponseScene(t)
	s.answers(func(w http.ResponseWriter, _ *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer func() { _ = conn.Close() }()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		_, _ = io.Copy(conn, buffered)
	})
	header := s.deployment.apiHeader(consumer)
	connection := s.apiURL("/vault/connections/" + stream)
	for name, end := range map[string]func(){
		"disabled": func() { send(t, http.MethodPatch, connection, header, `{"enabled":false}`).connection(t) },
		"deleted":  func() { send(t, http.MethodDelete, connection, header, "") },
	} {
		for _, by := range bothSides {
			s.connect(t, stream, consumer)
			send(t, http.MethodPatch, connection, header, `{"enabled":true}`).connection(t)
			conn, reader := s.dial(t, by, "1.1", "Connection: Upgrade", "Upgrade: websocket")
			resp, err := http.ReadResponse(reader, nil)
			if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("%s: the response is %v, %v; want 101", by.name, resp, err)
			}
			fmt.Fprintln(conn, "hello")
			if line, err := reader.ReadString('\n'); err != nil || line != "hello\n" {
				t.Fatalf("%s: got %q, %v; want the line back", by.name, line, err)
			}
			end()
			if rest, err := io.ReadAll(reader); err != nil || string(rest) != "\x88\x02\x03\xf0" {
				t.Errorf("%s, %s: got %q, %v; want a close frame with status 1008, and the end", by.name, name, rest, err)
			}
			_ = conn.Close()
		}
	}
}

// The customer has revoked the grant. The refresh that a 401 causes is refused, and what is left
// of the token is of no use: callers are told that a new authorisation is needed.
func TestDeadGrants401TellsToAuthoriseAgain(t *testing.T) {
	t.Parallel()
	for _, by := range bothSides {
		for _, large := range []bool{false, true} { // too large to be sent again
			t.Run(fmt.Sprint(by.name, ", large body ", large), func(t *testing.T) {
				t.Parallel()
				d := newDeployment(t, oauthserver.Config{}).onDisk()
				var calls atomic.Int32
				d.provider.OnAPI(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
					calls.Add(1)
					_, _ = io.Copy(io.Discard, r.Body)
					w.WriteHeader(http.StatusUnauthorized)
				})
				p := d.start(t)
				login := d.provider.Login(t, consumer, 0)
				d.provider.Revoke(t, consumer)
				p.importTokens(t, acme, consumer, login)
				body := ""
				if large {
					body = strings.Repeat("x", 70<<10)
				}
				ask := func() answer {
					if by.isProxy {
						return sendProxied(t, p.proxied(t.Context(), t, http.MethodPost, "/contacts", d.provider.APIURL, strings.NewReader(body)))
					}
					return send(t, http.MethodPost, p.sidecarURL("/acme/contacts"), http.Header{"X-Apideck-Consumer-Id": {consumer}}, body)
				}
				if large { // it is refreshed in the background, and this caller sees the 401 of downstream
					if got := ask(); got.status != http.StatusUnauthorized {
						t.Fatalf("the response is %v, want 401", got)
					}
					d.webhooks.await(t, failedEvent)
				}
				wantNeedsAuth(t, ask())
				body = "" // it would be refused unread
				sent := calls.Load()
				if sent == 0 {
					t.Error("no call was sent: the test proves nothing")
				}
				for range 3 {
					wantNeedsAuth(t, ask())
				}
				if got := calls.Load(); got != sent {
					t.Errorf("%d more calls were sent with the dead token, want none", got-sent)
				}
				if conn := p.get(t, acme, consumer).connection(t); conn.State != "invalid" || conn.Health != "needs_auth" {
					t.Errorf("the connection is %s, %s; want invalid, needs_auth", conn.State, conn.Health)
				}
				p.stop(t)
				// It is remembered after a restart.
				p = d.start(t)
				wantNeedsAuth(t, ask())
				if got := calls.Load(); got != sent {
					t.Errorf("%d more calls were sent after a restart, want none", got-sent)
				}
			})
		}
	}
}
