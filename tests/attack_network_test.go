package tests

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

func TestAllowingPrivateHostsLeavesMetadataAddressesRefused(t *testing.T) {
	t.Parallel()
	s := newAttackScene(t, "allow_private_hosts")
	for _, w := range ways {
		s.begin("victim of " + w.name)
		specialAddresses(t, s, w)
	}
}

// beyondLoopback returns an address of this machine that other machines could reach.
func beyondLoopback(t testing.TB) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	isPublic := func(ip net.IP) bool { return ip.IsGlobalUnicast() && !ip.IsPrivate() }
	for _, fits := range []func(net.IP) bool{net.IP.IsPrivate, isPublic} { // RFC 1918 and RFC 4193 first
		for _, address := range addresses {
			if ip, ok := address.(*net.IPNet); ok && fits(ip.IP) {
				return ip.IP.String()
			}
		}
	}
	t.Skip("this machine has only loopback addresses")
	return ""
}

// expiredTokens is the body of an import whose access token has expired.
const expiredTokens = `{"credentials": {"access_token": "a", "refresh_token": "r", "issued_at": "2026-01-01T00:00:00Z", "expires_in": 1}}`

// An egress proxy would dial in place of the broker, which checks addresses when it dials,
// and would see unencrypted requests.
func TestEgressProxiesOfTheEnvironmentAreNotUsed(t *testing.T) {
	t.Parallel()
	host := beyondLoopback(t) // Go uses no proxy for loopback
	good, token, hook, egress := newRawServer(t, host), newRawServer(t, host), newRawServer(t, host), newRawServer(t, "127.0.0.1")
	token.answers(func(rawRequest) string {
		return "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 25\r\n\r\n" + `{"error":"invalid_grant"}`
	})
	d := newDeployment(t, oauthserver.Config{}).onDisk()
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
		d.env = append(d.env, name+"=http://"+egress.address)
	}
	p := d.startWith(t, fmt.Sprintf(`connector crm/acme {
			auth_type oauth2
			auth_style params
			token_url http://%s/token
			client_id acme
			base_url http://%s
			allow_private
		}
		webhook http://%s/hook {
			secret %s
			allow_private
		}`, token.address, good.address, hook.address, d.secretFile(t, "webhook-secret", d.webhookSecret)), fmt.Sprintf(`reverse_proxy /plain http://%[1]s
		reverse_proxy http://%[1]s {
			transport token_broker crm/acme {
				app %[2]s
			}
		}`, good.address, application))
	s := &attackScene{process: p, good: good, evil: egress, consumer: consumer}
	s.importInto(t, "acme", "").connection(t)
	for _, w := range ways {
		if got := statuses(s.call(t, w, "acme", s.url("/"))); !slices.Equal(got, []int{http.StatusOK}) {
			t.Errorf("%s: got %v, want 200", w.name, got)
		}
	}
	if n := len(good.seen()); n != len(ways) {
		t.Errorf("downstream got %d requests, want %d", n, len(ways))
	}
	// The refresh of this connection fails, which a webhook reports.
	p.importBody(t, "crm/acme", "other", expiredTokens).connection(t)
	hooked := func() error {
		if len(token.seen()) == 0 || len(hook.seen()) == 0 {
			return fmt.Errorf("%d token requests and %d webhooks, want one of each at least", len(token.seen()), len(hook.seen()))
		}
		return nil
	}
	eventually(t, "the refresh and its webhook", hooked)
	egress.wantNone(t)

	// Plain reverse_proxy uses the proxy, so the environment is set correctly.
	send(t, http.MethodGet, p.sidecarURL("/plain"), http.Header{}, "")
	if len(egress.seen()) == 0 {
		t.Error("plain reverse_proxy did not use the egress proxy: the test proves nothing")
	}
}

// Every client that reaches a listener with app acts for that application. Those on loopback
// are on this machine; for any other listener the log warns.
func TestListenerBeyondLoopback(t *testing.T) {
	t.Parallel()
	const warning = "anyone who can reach this listener can use the application's connections"
	host := beyondLoopback(t)
	s := newAttackScene(t, "")
	s.begin(consumer)
	s.importInto(t, "near", "").connection(t)
	for _, port := range []int{s.ports.API, s.ports.Sidecar, s.ports.Admin} {
		if conn, err := net.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(port))); err == nil {
			_ = conn.Close()
			t.Errorf("port %d can be reached at %s, though it is bound to loopback", port, host)
		}
	}
	if strings.Contains(s.log.String(), warning) {
		t.Error("the log warns about listeners on loopback")
	}

	// The same without bind: the address of a site does not limit where it listens.
	open := strings.ReplaceAll(readFile(t, s.configPath), "\tbind 127.0.0.1\n", "")
	s.stop(t)
	s.process = s.deployment.runCaddyfile(t, s.ports, open)
	s.awaitReady(t)
	if got := strings.Count(s.log.String(), warning); got == 0 {
		t.Error("the log does not warn about a listener beyond loopback")
	}
	address := net.JoinHostPort(host, strconv.Itoa(s.ports.Sidecar))
	request := head("GET /", address, []string{"X-Connector: near", "X-Upstream: " + s.good.address, "X-Apideck-Consumer-Id: " + s.consumer, "Connection: close"})
	sendRaw(t, address, request+"\r\n")
	s.good.wantNone(t) // the site is for another Host; a forged one gets in, hence the warning
	// Where callers must authenticate, reaching the listener is not enough.
	api := net.JoinHostPort(host, strconv.Itoa(s.ports.API))
	request = head("GET /proxy", fmt.Sprintf("127.0.0.1:%d", s.ports.API), []string{"X-Apideck-Downstream-Url: " + s.url("/"), "X-Apideck-Consumer-Id: " + s.consumer, "Connection: close"})
	s.wantRefused(t, sendRaw(t, api, request+"\r\n"), http.StatusUnauthorized)
}

// Addresses are checked for the broker's own requests too: a name that resolves to this
// machine gets no refresh token, no client secret and no event.
func TestTokensAndEventsDoNotGoToThisMachine(t *testing.T) {
	t.Parallel()
	token, revocation, hook := newTrap(t), newTrap(t), newTrap(t)
	named := func(p *trap) string { return "localhost:" + portOf(p.address) }
	d := newDeployment(t, oauthserver.Config{}).onDisk()
	p := d.startWith(t, fmt.Sprintf(`connector crm/acme {
			auth_type oauth2
			auth_style params
			token_url https://%s/token
			revocation_url https://%s/revoke
			client_id acme
			base_url https://api.acme.test
		}
		# Private addresses are allowed; that of the metadata never is.
		connector crm/metadata {
			auth_type oauth2
			auth_style params
			token_url http://169.254.169.254/latest/token
			client_id acme
			base_url https://api.acme.test
			allow_private
		}
		webhook https://%s/hook {
			secret %s
		}`, named(token), named(revocation), named(hook), d.secretFile(t, "webhook-secret", d.webhookSecret)), "respond 404")
	p.importBody(t, "crm/acme", consumer, expiredTokens).connection(t)
	p.importBody(t, "crm/metadata", consumer, expiredTokens).connection(t)
	logged := func(count int, what string) {
		t.Helper()
		eventually(t, "the refusal in the log", func() error {
			if n := strings.Count(p.log.String(), what); n < count {
				return fmt.Errorf("the log contains %s %d times, want %d", what, n, count)
			}
			return nil
		})
	}
	logged(2, `"class":"transient","code":"address_not_allowed"`)
	logged(1, `"msg":"webhook attempt failed"`)
	logged(1, `"error":"address_not_allowed"`)
	if got := p.api(t, http.MethodDelete, "connections/crm/acme", consumer, ""); got.status != http.StatusNoContent {
		t.Errorf("deleting: %v", got)
	}
	logged(1, "the address is not allowed") // the revocation
	for name, trap := range map[string]*trap{"token endpoint": token, "revocation endpoint": revocation, "webhook": hook} {
		if n := trap.connections.Load(); n > 0 {
			t.Errorf("%d connections to the %s on this machine, want none", n, name)
		}
	}
}

// startWith starts a process with an embedded store, an application, and the connections and
// proxy APIs. broker is the rest of the token_broker block, sidecar the content of the
// sidecar's site.
func (d *deployment) startWith(t testing.TB, broker, sidecar string) *process {
	t.Helper()
	ports := ports{freePort(t), freePort(t), freePort(t)}
	p := d.runCaddyfile(t, ports, fmt.Sprintf(`{
	admin 127.0.0.1:%d
	token_broker {
		storage embedded
		app %s {
			api_key %s
		}
		%s
	}
}

http://127.0.0.1:%d {
	bind 127.0.0.1
	connections_api
	downstream_proxy
}

http://127.0.0.1:%d {
	bind 127.0.0.1
	%s
}
`, ports.Admin, application, d.secretFile(t, "api-key", d.apiKey), broker, ports.API, ports.Sidecar, sidecar))
	p.awaitReady(t)
	return p
}
