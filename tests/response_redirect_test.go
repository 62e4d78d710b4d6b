package tests

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// A URL in a response leads where downstream's own clients would go, never to the broker.
func TestURLsInResponsesLeadToDownstream(t *testing.T) {
	t.Parallel()
	s := newResponseScene(t)
	for _, tt := range []struct{ field, value, proxy, transport string }{
		{"Location", "/v2/contacts/7", "SERVICE/v2/contacts/7", "/v2/contacts/7"},
		{"Location", "7?page=2", "SERVICE/v2/7?page=2", "7?page=2"},
		{"Location", "?api_key=KEY&page=2", "SERVICE/v2/contacts?page=2", "?page=2"},
		{"Location", "?api_key=" + "sk%2Flive%2Bthe-key", "SERVICE/v2/contacts", ""},
		{"Location", "https://elsewhere.test/x?api_key=KEY", "https://elsewhere.test/x", "https://elsewhere.test/x"},
		{"Location", "/vault/consumers/test-consumer", "SERVICE/vault/consumers/test-consumer", "SERVICE/vault/consumers/test-consumer"},
		{"Location", "../vault/connections", "SERVICE/vault/connections", "SERVICE/vault/connections"},
		{"Location", "../../../vault", "SERVICE/vault", "SERVICE/vault"},
		{"Location", "/%70roxy", "SERVICE/%70roxy", "SERVICE/%70roxy"},
		{"Location", "http://BROKER/vault/connections", "", ""},
		{"Location", "//BROKER/vault/connections", "", ""},
		{"Location", "http://localhost:PORT/vault", "", ""},
		{"Location", "http://127.1:PORT/vault", "", ""},
		{"Location", "http://SIDECAR/acme/x", "", ""},
		{"Location", `/\BROKER/vault`, "", ""},
		{"Location", "http:/vault", "", ""},
		{"Location", "http://BROKER/v2", "", "http://BROKER/v2"},
		{"Content-Location", "/v2", "SERVICE/v2", "/v2"},
		{"Refresh", "0; url=/vault", "0; url=SERVICE/vault", "0; url=SERVICE/vault"},
		{"Link", `</v2?page=2&api_key=KEY>; rel="next"`, `<SERVICE/v2?page=2>; rel="next"`, `</v2?page=2>; rel="next"`},
		{"Link", `<http://BROKER/vault>; rel=preload`, "", ""},
		{"Sourcemap", "x.map", "SERVICE/v2/x.map", "x.map"},
	} {
		fill := strings.NewReplacer("SERVICE", s.service.URL, "BROKER", hostOf(t, s.apiURL("")), "SIDECAR", hostOf(t, s.sidecarURL("")),
			"PORT", strconv.Itoa(s.ports.API), "KEY", sceneKey)
		for _, by := range bothSides {
			s.sends(http.StatusFound, tt.field+": "+fill.Replace(tt.value))
			want := tt.transport
			if by.isProxy {
				want = tt.proxy
			}
			got := s.fetch(t, by, http.MethodGet, asked, "/v2/contacts").Header.Values(tt.field)
			if want == "" && len(got) > 0 && got[0] != "" || want != "" && (len(got) != 1 || got[0] != fill.Replace(want)) {
				t.Errorf("%s: %s: %s became %q, want %q", by.name, tt.field, tt.value, got, fill.Replace(want))
			}
		}
	}
}

// followed are the redirects that destroyed something: the method and the path of the API.
var followed = [][2]string{
	{"DELETE", "/vault/consumers/" + consumer},
	{"DELETE", "/vault/connections/crm/acme"},
	{"PATCH", "/vault/connections/crm/acme"},
}

// newRedirectScene starts a process whose downstream redirects /redirect/x to /x, keeping the
// method. The sidecar /acme, where callers authenticate, is on the API's listener.
func newRedirectScene(t *testing.T) *process {
	t.Helper()
	d := newDeployment(t, oauthserver.Config{}).onDisk()
	d.site = fmt.Sprintf("handle_path /acme/* {\nreverse_proxy %s {\ntransport token_broker crm/acme\n}\n}\n", d.provider.APIURL)
	d.provider.OnAPI(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Location", strings.TrimPrefix(r.URL.Path, "/redirect"))
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	p := d.start(t)
	p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 0))
	return p
}

func (p *process) wantEnabled(t *testing.T, what string) {
	t.Helper()
	got := p.get(t, acme, consumer)
	var body struct{ Data struct{ Enabled bool } }
	if got.status == http.StatusOK {
		got.decode(t, &body)
	}
	if !body.Data.Enabled {
		t.Fatalf("%s: the connection is %v, want it unharmed", what, got)
	}
}

func TestClientsThatFollowRedirectsHarmNoConnection(t *testing.T) {
	t.Parallel()
	p := newRedirectScene(t)
	header := p.deployment.apiHeader(consumer)
	header.Set("X-Apideck-Service-Id", "acme")
	for _, by := range bothSides {
		for _, f := range followed {
			method, path, body := f[0], f[1], ""
			if method == "PATCH" {
				body = `{"enabled":false}`
			}
			target := p.apiURL("/acme/redirect" + path)
			if by.isProxy {
				target = p.apiURL("/proxy")
				header.Set("X-Apideck-Downstream-Url", p.deployment.provider.APIURL+"/redirect"+path)
			}
			t.Run(by.name+" with Go, "+method+" "+path, func(t *testing.T) {
				req, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				req.Header = header.Clone()
				if resp, err := (&http.Client{Timeout: waitTimeout}).Do(req); err == nil {
					_ = resp.Body.Close()
				}
				p.wantEnabled(t, "Go")
			})
			t.Run(by.name+" with curl -L, "+method+" "+path, func(t *testing.T) {
				curl, err := exec.LookPath("curl")
				if err != nil && os.Getenv("CI") == "true" {
					t.Fatal("curl is missing: CI must run it against the broker")
				}
				if err != nil {
					t.Skip("SKIPPED: curl is missing")
				}
				// Without a referer, which would be refused.
				args := []string{"-sS", "-L", "--max-time", "20", "--max-redirs", "5", "--location-trusted", "-X", method, "-d", body}
				for name, values := range header {
					args = append(args, "-H", name+": "+values[0])
				}
				out, err := exec.CommandContext(t.Context(), curl, append(args, target)...).CombinedOutput()
				t.Logf("curl: %v: %s", err, out)
				p.wantEnabled(t, "curl")
			})
		}
	}
	t.Run("with the official SDK and Node's fetch", func(t *testing.T) {
		p.runNode(t, "redirect.mjs", map[string]any{"downstream": p.deployment.provider.APIURL, "redirects": followed})
		p.wantEnabled(t, "Node")
	})
}

// Should a client be led to the connections API all the same, that refuses what only a redirect
// or a page of another site would send.
func TestConnectionsAPIRefusesRequestsThatARedirectLedTo(t *testing.T) {
	t.Parallel()
	p := newRedirectScene(t)
	for _, line := range [][2]string{
		{"Referer", p.apiURL("/proxy")},
		{"Referer", p.apiURL("/proxy/contacts?a=b")},
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Sec-Fetch-Mode", "navigate"},
		{"Sec-Fetch-Dest", "iframe"},
	} {
		for _, f := range followed {
			header := p.deployment.apiHeader(consumer)
			header.Set(line[0], line[1])
			send(t, f[0], p.apiURL(f[1]), header, `{"enabled":false}`).wantError(t, http.StatusForbidden, "ForbiddenError")
		}
		header := p.deployment.apiHeader(consumer)
		header.Set(line[0], line[1])
		header.Set("Authorization", "Bearer wrong")
		send(t, http.MethodGet, p.apiURL("/vault/connections"), header, "").wantError(t, http.StatusUnauthorized, "UnauthorizedError")
	}
	p.wantEnabled(t, "the refused requests")
	header := p.deployment.apiHeader(consumer)
	header.Set("Sec-Fetch-Mode", "cors") // Node's fetch
	if got := send(t, http.MethodGet, p.apiURL("/vault/connections"), header, ""); got.status != http.StatusOK {
		t.Errorf("a request of Node's fetch = %v, want 200", got)
	}
}
