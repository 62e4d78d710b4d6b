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

// beyondLoopback returns an address of this machine that others could reach it by.
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
	t.Skip("this machine has no address but loopback, so that nothing here can be tried")
	return ""
}

// An egress proxy would dial in the broker's place, and see what is not encrypted.
func TestEgressProxiesOfTheEnvironmentAreNotUsed(t *testing.T) {
	t.Parallel()
	host := beyondLoopback(t) // for loopback Go asks no proxy anyway
	good, token, hook, egress := newRawServer(t, host), newRawServer(t, host), newRawServer(t, host), newRawServer(t, "127.0.0.1")
	token.answers(func(rawRequest) string {
		return "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 25\r\n\r\n" + `{"error":"invalid_grant"}`
	})
	d := newDeployment(t, oauthserver.Config{}).onDisk()
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
		d.env = append(d.env, name+"=http://"+egress.address)
	}
	ports := ports{freePort(t), freePort(t), freePort(t)}
	p := d.runCaddyfile(t, ports, fmt.Sprintf(`{
		admin 127.0.0.1:%[1]d
		token_broker {
			storage embedded
			app %[2]s {
				api_key %[3]s
			}
			connector crm/acme {
				auth_type oauth2
				auth_style params
				token_url http://%[4]s/token
				client_id acme
				base_url http://%[5]s
				allow_private
			}
			webhook http://%[6]s/hook {
				secret %[3]s
				allow_private
			}
		}
	}
	http://127.0.0.1:%[7]d {
		bind 127.0.0.1
		connections_api
		downstream_proxy
		reverse_proxy /plain http://%[5]s
	}
	http://127.0.0.1:%[8]d {
		bind 127.0.0.1
		reverse_proxy http://%[5]s {
			transport token_broker crm/acme {
				app %[2]s
			}
		}
	}`, ports.Admin, application, d.secretFile(t, "api-key", d.apiKey), token.address, good.address, hook.address, ports.API, ports.Sidecar))
	p.awaitReady(t)
	s := &attackScene{process: p, good: good, evil: egress, consumer: consumer}
	s.importInto(t, "acme", "").connection(t)
	for _, w := range ways {
		if got := statuses(s.call(t, w, "acme", s.url("/"))); !slices.Equal(got, []int{http.StatusOK}) {
			t.Errorf("%s: got %v, want 200", w.name, got)
		}
	}
	if n := len(good.seen()); n != len(ways) {
		t.Errorf("downstream was asked %d times, want %d", n, len(ways))
	}
	// A connection whose token has expired: its refresh fails, and a webhook tells of it.
	p.importBody(t, "crm/acme", "other", `{"credentials": {"access_token": "a", "refresh_token": "r", "issued_at": "2026-01-01T00:00:00Z", "expires_in": 1}}`).connection(t)
	hooked := func() error {
		if len(token.seen()) == 0 || len(hook.seen()) == 0 {
			return fmt.Errorf("the token endpoint was asked %d times, and told was %d", len(token.seen()), len(hook.seen()))
		}
		return nil
	}
	eventually(t, "the refresh and its webhook", hooked)
	egress.wantNone(t)

	// The environment does say so: plain reverse_proxy goes by it.
	send(t, http.MethodGet, p.apiURL("/plain"), http.Header{}, "")
	if len(egress.seen()) == 0 {
		t.Error("plain reverse_proxy did not ask the egress proxy: nothing was tested here")
	}
}

// Whoever reaches a listener with app acts for that application. On loopback that is this
// machine; elsewhere the log warns.
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
		t.Error("the log warns of listeners on loopback")
	}

	// The same without bind, to which a site's address alone is no help.
	open := strings.ReplaceAll(readFile(t, s.configPath), "\tbind 127.0.0.1\n", "")
	s.stop(t)
	s.process = s.deployment.runCaddyfile(t, s.ports, open)
	s.awaitReady(t)
	if got := strings.Count(s.log.String(), warning); got == 0 {
		t.Error("the log does not warn of a listener beyond loopback")
	}
	address := net.JoinHostPort(host, strconv.Itoa(s.ports.Sidecar))
	request := head("GET /", address, []string{"X-Connector: near", "X-Upstream: " + s.good.address, "X-Apideck-Consumer-Id: " + s.consumer, "Connection: close"})
	sendRaw(t, address, request+"\r\n")
	s.good.wantNone(t) // the site is for another Host; who forges that gets in, hence the warning
	// Where callers authenticate, being reachable is not enough.
	api := net.JoinHostPort(host, strconv.Itoa(s.ports.API))
	request = head("GET /proxy", fmt.Sprintf("127.0.0.1:%d", s.ports.API), []string{"X-Apideck-Downstream-Url: " + s.url("/"), "X-Apideck-Consumer-Id: " + s.consumer, "Connection: close"})
	s.wantRefused(t, sendRaw(t, api, request+"\r\n"), http.StatusUnauthorized)
}

// Addresses are checked wherever the broker connects to by itself: names that lead to this
// machine get no refresh token, no client secret and no event either.
func TestTokensAndEventsDoNotGoToThisMachine(t *testing.T) {
	t.Parallel()
	token, revocation, hook := newTrap(t), newTrap(t), newTrap(t)
	named := func(p *trap) string { return "localhost:" + portOf(p.address) }
	d := newDeployment(t, oauthserver.Config{}).onDisk()
	ports := ports{freePort(t), freePort(t), freePort(t)}
	p := d.runCaddyfile(t, ports, fmt.Sprintf(`{
		admin 127.0.0.1:%[1]d
		token_broker {
			storage embedded
			app %[2]s {
				api_key %[3]s
			}
			connector crm/acme {
				auth_type oauth2
				auth_style params
				token_url https://%[4]s/token
				revocation_url https://%[5]s/revoke
				client_id acme
				base_url https://api.acme.test
			}
			# Private is allowed; metadata is not.
			connector crm/metadata {
				auth_type oauth2
				auth_style params
				token_url http://169.254.169.254/latest/token
				client_id acme
				base_url https://api.acme.test
				allow_private
			}
			webhook https://%[6]s/hook {
				secret %[3]s
			}
		}
	}
	http://127.0.0.1:%[7]d {
		bind 127.0.0.1
		connections_api
	}`, ports.Admin, application, d.secretFile(t, "api-key", d.apiKey), named(token), named(revocation), named(hook), ports.API))
	p.awaitReady(t)
	const expired = `{"credentials": {"access_token": "a", "refresh_token": "r", "issued_at": "2026-01-01T00:00:00Z", "expires_in": 1}}`
	p.importBody(t, "crm/acme", consumer, expired).connection(t)
	p.importBody(t, "crm/metadata", consumer, expired).connection(t)
	logged := func(count int, what string) {
		t.Helper()
		eventually(t, "that it is refused", func() error {
			if n := strings.Count(p.log.String(), what); n < count {
				return fmt.Errorf("the log has %s %d times, want %d", what, n, count)
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
			t.Errorf("%d connections were made to the %s on this machine, want none", n, name)
		}
	}
}
