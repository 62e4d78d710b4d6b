package tests

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// stolen is part of every credential in the attacks. It must reach no one but downstream.
const stolen = "STOLEN-credential-0123456789"

// An attackScene is a process with connectors to attack, the downstream that their
// credentials are for (good), and a server that must never get a request (evil).
type attackScene struct {
	*process
	good, evil *rawServer
	consumer   string // of the attack in progress
}

// begin starts an attack on a new consumer, and resets the servers.
func (s *attackScene) begin(consumer string) {
	s.consumer = consumer
	for _, server := range []*rawServer{s.good, s.evil} {
		server.mu.Lock()
		server.requests, server.answer = nil, nil
		server.mu.Unlock()
	}
}

// A way is one of the two ways in which credentials leave the broker.
type way struct {
	name string
	// request returns the start of a request for the URL with a connector's credential:
	// the request line and header lines. The attack adds the rest.
	request func(s *attackScene, connector, method, url string, lines ...string) (address, head string)
}

var ways = []way{
	{"transport", func(s *attackScene, connector, method, url string, lines ...string) (string, string) {
		scheme, rest, _ := strings.Cut(url, "://")
		host, path, _ := strings.Cut(rest, "/")
		if scheme == "https" {
			lines = append(lines, "X-Tls: yes")
		}
		address := fmt.Sprintf("127.0.0.1:%d", s.ports.Sidecar)
		return address, head(method+" /"+path, address, append(lines, "X-Connector: "+connector,
			"X-Upstream: "+withPort(host, scheme), "X-Apideck-Consumer-Id: "+s.consumer))
	}},
	{"proxy", func(s *attackScene, connector, method, url string, lines ...string) (string, string) {
		address := fmt.Sprintf("127.0.0.1:%d", s.ports.API)
		return address, head(method+" /proxy", address, append(lines,
			"Authorization: Bearer "+s.deployment.apiKey, "X-Apideck-App-Id: "+application, "X-Apideck-Consumer-Id: "+s.consumer,
			"X-Apideck-Unified-Api: crm", "X-Apideck-Service-Id: "+connector, "X-Apideck-Downstream-Url: "+url))
	}},
}

// withPort adds the default port, which reverse_proxy requires in an upstream's address.
func withPort(host, scheme string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	if scheme == "https" {
		return host + ":443"
	}
	return host + ":80"
}

func head(line, host string, lines []string) string {
	return line + " HTTP/1.1\r\nHost: " + host + "\r\n" + strings.Join(lines, "\r\n") + "\r\n"
}

// call sends a request that closes its connection, and returns the whole response.
func (s *attackScene) call(t testing.TB, w way, connector, url string, lines ...string) string {
	t.Helper()
	address, head := w.request(s, connector, http.MethodGet, url, append(lines, "Connection: close")...)
	return sendRaw(t, address, head+"\r\n")
}

// url returns the URL of a path at the good downstream.
func (s *attackScene) url(path string) string { return "http://" + s.good.address + path }

// wantRefused checks that the broker itself answered with one of the statuses, and that no
// server got a request.
func (s *attackScene) wantRefused(t testing.TB, answer string, status ...int) {
	t.Helper()
	got := statuses(answer)
	if len(got) != 1 || !slices.Contains(status, got[0]) || !strings.Contains(answer, "X-Token-Broker-Error: ") {
		t.Errorf("the response is %q, want one of %v from the broker", answer, status)
	}
	s.good.wantNone(t)
	s.evil.wantNone(t)
}

// only returns the one request that the good downstream got. It checks that the request has
// the credential once.
func (s *attackScene) only(t testing.TB) rawRequest {
	t.Helper()
	s.evil.wantNone(t)
	seen := s.good.seen()
	if len(seen) != 1 {
		t.Fatalf("downstream got %d requests, want one: %v", len(seen), seen)
	}
	if got := seen[0].values("Authorization"); len(got) != 1 || got[0] != "Bearer "+stolen {
		t.Errorf("downstream got Authorization %q, want the connection's", got)
	}
	return seen[0]
}

// newAttackScene starts a process with the connectors to attack.
func newAttackScene(t testing.TB, options string) *attackScene {
	t.Helper()
	return newAttackSceneOn(t, newDeployment(t, oauthserver.Config{}).onDisk(), options, "")
}

// newAttackSceneOn is newAttackScene for the caller's deployment. The connector crm/far also
// allows host.
func newAttackSceneOn(t testing.TB, d *deployment, options, host string) *attackScene {
	t.Helper()
	s := &attackScene{good: newRawServer(t, "127.0.0.1"), evil: newRawServer(t, "127.0.0.1")}
	ports := ports{freePort(t), freePort(t), freePort(t)}
	var b strings.Builder
	if err := attackCaddyfile.Execute(&b, map[string]any{
		"Ports": ports, "Storage": d.storage, "Options": options, "Good": s.good.address, "Evil": s.evil.address, "Application": application,
		"GoodPort": portOf(s.good.address), "Host": host, "APIKey": d.secretFile(t, "api-key", d.apiKey), "OtherKey": d.secretFile(t, "other-key", "another-api-key"),
	}); err != nil {
		t.Fatal(err)
	}
	s.process = d.runCaddyfile(t, ports, b.String())
	s.awaitReady(t)
	return s
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// importInto imports a credential for the attack to steal.
func (s *attackScene) importInto(t testing.TB, connector, settings string) answer {
	t.Helper()
	return s.importBody(t, "crm/"+connector, s.consumer, fmt.Sprintf(
		`{"credentials": {"access_token": %q, "refresh_token": "refresh", "issued_at": %q, "expires_in": 36000}, "settings": {%s}}`,
		stolen, time.Now().UTC().Format(time.RFC3339), settings))
}

// attackCaddyfile lets callers choose connector and upstream, as an operator might.
var attackCaddyfile = template.Must(template.New("Caddyfile").Parse(`{
	admin 127.0.0.1:{{.Ports.Admin}}
	debug
	token_broker {
		{{.Storage}}
		{{.Options}}
		app {{.Application}} {
			api_key {{.APIKey}}
		}
		app other-app {
			api_key {{.OtherKey}}
		}
		# Its API is on this machine.
		connector crm/near {
			auth_type oauth2
			auth_style header
			token_url http://127.0.0.1:1/token
			client_id near
			base_url http://{{.Good}}
			allow_private
		}
		# So is this one's; it allows addresses that are never dialled.
		connector crm/lost {
			auth_type oauth2
			auth_style header
			token_url http://127.0.0.1:1/token
			client_id lost
			base_url http://{{.Good}}
			allow_host 169.254.169.254 0.0.0.0:{{.GoodPort}} [::]:{{.GoodPort}} 100.100.100.200 168.63.129.16 [fd00:ec2::254] [64:ff9b::7f00:1]:{{.GoodPort}} [::7f00:1]:{{.GoodPort}} [2002:7f00:1::]:{{.GoodPort}} [fe80::1]:{{.GoodPort}} 255.255.255.255 224.0.0.1
			allow_private
		}
		# Its API is on another machine.
		connector crm/far {
			auth_type oauth2
			auth_style header
			token_url https://auth.acme.test/token
			client_id far
			base_url https://api.acme.test
			allow_host *.tenants.acme.test localhost:{{.GoodPort}} {{.Host}}
		}
		# Each customer has a host.
		connector crm/tenants {
			auth_type oauth2
			auth_style header
			token_url https://auth.acme.test/token
			client_id tenants
			base_url https://{tenant}.acme.test/v1/{account}
			allow_host *.acme.test
			setting tenant required
			setting account
		}
		connector crm/keyed {
			auth_type apiKey
			base_url http://{{.Good}}
			inject header X-Api-Key
			allow_private
		}
	}
}

http://127.0.0.1:{{.Ports.API}} {
	bind 127.0.0.1
	connections_api
	downstream_proxy
}

http://127.0.0.1:{{.Ports.Sidecar}} {
	bind 127.0.0.1
	@tls header X-Tls *
	reverse_proxy @tls {http.request.header.x-upstream} {
		transport token_broker crm/{http.request.header.x-connector} {
			app {{.Application}}
			tls
		}
	}
	reverse_proxy {http.request.header.x-upstream} {
		transport token_broker crm/{http.request.header.x-connector} {
			app {{.Application}}
		}
	}
}
`))
