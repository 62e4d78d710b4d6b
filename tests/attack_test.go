package tests

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// An attack is tried in each of the ways in which credentials leave the broker.
type attack struct {
	name string
	try  func(t *testing.T, s *attackScene, w way)
}

// TestAttacks tries to make the broker send a credential to the wrong place, or reveal it.
func TestAttacks(t *testing.T) {
	t.Parallel()
	attacks := slices.Concat(hostAttacks, headerAttacks, smugglingAttacks, answerAttacks)
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			s := newAttackScene(t, "")
			for i, a := range attacks {
				t.Run(a.name, func(t *testing.T) {
					s.begin(fmt.Sprint("victim ", i))
					a.try(t, s, w)
				})
			}
		})
	}
}

// refusedHosts returns an attack by host names: no URL may get the connector's credential.
func refusedHosts(connector, settings string, urls func(s *attackScene) []string) func(*testing.T, *attackScene, way) {
	return func(t *testing.T, s *attackScene, w way) {
		s.importInto(t, connector, settings).connection(t)
		for _, url := range urls(s) {
			answer := s.call(t, w, connector, url)
			// The broker refuses hosts with 403. Malformed URLs are other errors, some from Caddy.
			if got := statuses(answer); len(got) != 1 || got[0] < 400 || got[0] == http.StatusServiceUnavailable || strings.Contains(answer, stolen) {
				t.Errorf("%s: the response is %q, want a refusal", url, answer)
			}
			s.good.wantNone(t)
			s.evil.wantNone(t)
		}
	}
}

// specialAddresses is an attack by addresses that the connector allows, and that lead to this
// machine or to the metadata of its cloud.
func specialAddresses(t *testing.T, s *attackScene, w way) {
	port := portOf(s.good.address)
	s.importInto(t, "lost", "").connection(t)
	for _, host := range []string{
		"169.254.169.254", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "0.0.0.0:" + port, "[::]:" + port, "[::ffff:0.0.0.0]:" + port,
		"100.100.100.200", "168.63.129.16", "[fd00:ec2::254]", "[64:ff9b::7f00:1]:" + port, "[::7f00:1]:" + port, "[2002:7f00:1::]:" + port,
		"[fe80::1]:" + port, "255.255.255.255", "224.0.0.1",
	} {
		answer := s.call(t, w, "lost", "http://"+host+"/")
		s.wantRefused(t, answer, http.StatusForbidden)
		if !strings.Contains(answer, "address is not allowed") {
			t.Errorf("%s: the response is %q, want the address refused", host, answer)
		}
	}
}

var hostAttacks = []attack{
	{"hosts that look allowed and are not", refusedHosts("near", "", func(s *attackScene) []string {
		good, evil := s.good.address, s.evil.address
		return []string{
			"http://" + evil + "/", "http://127.0.0.1/", "http://127.0.0.2:" + portOf(good) + "/",
			"http://localhost:" + portOf(good) + "/", "http://" + good + "@" + evil + "/", "http://" + evil + "#" + good + "/",
			"http://" + evil + "?" + good + "/", "http://" + evil + "\\" + good + "/", "http://" + evil + "%2f" + good + "/",
			"http://127.0.0.1.evil.test/", "http://0x7f000001:" + portOf(good) + "/", "http://2130706433:" + portOf(good) + "/",
			"http://127.1:" + portOf(good) + "/", "http://0177.0.0.1:" + portOf(good) + "/", "http://[::1]:" + portOf(good) + "/",
		}
	})},
	{"hosts of other names that look allowed", refusedHosts("far", "", func(*attackScene) []string {
		return []string{
			"https://api.acme.test.evil.test/", "https://evil-api.acme.test/", "https://apiXacme.test/", "https://acme.test/",
			"https://tenants.acme.test/", "https://a.b.tenants.acme.test/", "https://api.acme.test:444/", "https://api.acme.test%00.evil.test/",
			"https://api.acme.tést/", "https://аpi.acme.test/", "https://xn--pi-7kc.acme.test/", "https://api.acme.test@evil.test/", "https://evil.test/api.acme.test",
		}
	})},
	{"another tenant's host under a shared wildcard", refusedHosts("tenants", `"tenant": "mine"`, func(*attackScene) []string {
		return []string{"https://theirs.acme.test/v1/", "https://acme.test/", "https://mine.theirs.acme.test/", "https://mine.acme.test.evil.test/"}
	})},
	{"HTTP downgrade", refusedHosts("far", "", func(s *attackScene) []string {
		return []string{"http://api.acme.test/", "http://api.acme.test:443/", "http://localhost:" + portOf(s.good.address) + "/"}
	})},
	{"a name that resolves to this machine", func(t *testing.T, s *attackScene, w way) {
		// The name is allowed, and its address at dial time is not. TestAttackByRebindingDNS
		// covers names that change their address.
		s.importInto(t, "far", "").connection(t)
		answer := s.call(t, w, "far", "https://localhost:"+portOf(s.good.address)+"/")
		s.wantRefused(t, answer, http.StatusForbidden)
		if !strings.Contains(answer, "loopback") {
			t.Errorf("the response is %q, want the address refused", answer)
		}
	}},
	{"configured addresses that are never dialled", specialAddresses},
	{"dot segments and encoded slashes", func(t *testing.T, s *attackScene, w way) {
		s.importInto(t, "near", "").connection(t)
		for _, path := range []string{
			"/v1/../../admin", "/v1/%2e%2e%2f%2e%2e%2fadmin", "/v1/..%2fadmin", "//" + s.evil.address + "/", "/\\" + s.evil.address, "/v1/%5c..%5cadmin", "/@" + s.evil.address,
		} {
			before := len(s.good.seen())
			answer := s.call(t, w, "near", s.url(path))
			// No path leads to another host. On the right host the caller chooses the path: it
			// arrives as sent (a backslash encoded, as it must be), or the call is refused.
			s.evil.wantNone(t)
			seen := s.good.seen()[before:]
			switch got := statuses(answer); {
			case len(got) == 1 && got[0] == http.StatusBadRequest && len(seen) == 0:
			case len(got) == 1 && got[0] == http.StatusOK && len(seen) == 1 && seen[0].path() == strings.ReplaceAll(path, "\\", "%5C"):
			default:
				t.Errorf("%s: the response is %q, and downstream got %v", path, answer, seen)
			}
		}
	}},
	{"dot segments and slashes in settings", func(t *testing.T, s *attackScene, w way) {
		for _, settings := range []string{
			`"tenant": "..", "account": "1"`, `"tenant": "evil.test/", "account": "1"`, `"tenant": "evil.test#", "account": "1"`,
			`"tenant": "a@evil", "account": "1"`, `"tenant": "%2e%2e%2f", "account": "1"`, `"tenant": "evil:80", "account": "1"`,
			`"tenant": "mine", "account": ".."`, `"tenant": "mine", "account": "../../admin"`, `"tenant": "mine", "account": "a\\b"`,
		} {
			got := s.importInto(t, "tenants", settings)
			if got.status != http.StatusUnprocessableEntity && got.status != http.StatusBadRequest {
				t.Errorf("%s: the import = %v, want a refusal", settings, got)
			}
		}
		s.wantRefused(t, s.call(t, w, "tenants", "https://evil.test/"), http.StatusNotFound)
	}},
	{"absolute-form targets", func(t *testing.T, s *attackScene, w way) {
		s.importInto(t, "near", "").connection(t)
		address, head := w.request(s, "near", http.MethodGet, s.url("/v1"), "Connection: close")
		for _, target := range []string{"http://" + s.evil.address + "/v1", "http://" + address + "/v1", "//" + s.evil.address + "/v1", "*"} {
			before := len(s.good.seen())
			_, rest, _ := strings.Cut(head, " HTTP/1.1")
			answer := sendRaw(t, address, "GET "+target+" HTTP/1.1"+rest+"\r\n")
			s.evil.wantNone(t)
			for _, r := range s.good.seen()[before:] {
				if got := r.values("Host"); len(got) != 1 || got[0] != s.good.address {
					t.Errorf("%s: downstream got Host %q; the response is %q", target, got, answer)
				}
			}
		}
	}},
	{"another application's consumer", func(t *testing.T, s *attackScene, w way) {
		s.importInto(t, "near", "").connection(t)
		address, head := w.request(s, "near", http.MethodGet, s.url("/"), "Connection: close")
		switch w.name {
		case "transport": // the configuration sets its application
			s.wantRefused(t, sendRaw(t, address, strings.Replace(head, ": "+s.consumer+"\r\n", ": another-consumer\r\n", 1)+"\r\n"), http.StatusNotFound)
		default:
			other := strings.Replace(strings.Replace(head, s.deployment.apiKey, "another-api-key", 1), application, "other-app", 1)
			s.wantRefused(t, sendRaw(t, address, other+"\r\n"), http.StatusNotFound)
			mixed := strings.Replace(head, s.deployment.apiKey, "another-api-key", 1)
			s.wantRefused(t, sendRaw(t, address, mixed+"\r\n"), http.StatusUnauthorized)
			none := strings.Replace(head, "Authorization: Bearer "+s.deployment.apiKey+"\r\n", "", 1)
			s.wantRefused(t, sendRaw(t, address, none+"\r\n"), http.StatusUnauthorized)
		}
	}},
	{"CR, LF and NUL in injected credentials", func(t *testing.T, s *attackScene, w way) {
		for _, key := range []string{`a\r\nX-Evil: 1`, `a\nX-Evil: 1`, `a\rX-Evil: 1`, `a\u0000b`} {
			body := fmt.Sprintf(`{"settings": {"api_key": "%s%s"}}`, stolen, key)
			if got := s.importBody(t, "crm/keyed", s.consumer, body); got.status == http.StatusOK {
				s.wantRefused(t, s.call(t, w, "keyed", s.url("/")), http.StatusUnprocessableEntity)
			}
			body = fmt.Sprintf(`{"credentials": {"access_token": "%s%s", "refresh_token": "r", "issued_at": "2026-01-01T00:00:00Z", "expires_in": 900000000}}`, stolen, key)
			if got := s.importBody(t, "crm/near", s.consumer, body); got.status == http.StatusOK {
				s.wantRefused(t, s.call(t, w, "near", s.url("/")), http.StatusUnprocessableEntity)
			}
		}
		s.good.wantNone(t)
	}},
}
