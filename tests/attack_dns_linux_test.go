package tests

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/dnstest"
	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// An allowed name has another address at each lookup: a public one, then that of this machine.
// A client that looks it up to check it, and again to dial, connects to this machine.
func TestAttackByRebindingDNS(t *testing.T) {
	t.Parallel()
	const host = "api.rebind.test"
	d := newDeployment(t, oauthserver.Config{}).onDisk()
	names := d.useNameServer(t, func(lookup int) netip.Addr {
		if lookup%2 == 1 {
			return netip.MustParseAddr("93.184.216.34") // public; nothing listens on that port
		}
		return netip.MustParseAddr("127.0.0.1")
	})
	target := newTrap(t)
	s := newAttackSceneOn(t, d, "", host+":"+portOf(target.address))
	for _, w := range ways {
		s.begin("victim of rebinding by " + w.name)
		s.importInto(t, "far", "").connection(t)
		refused := false
		for range 4 {
			before := names.Lookups()
			answer := s.call(t, w, "far", "https://"+host+":"+portOf(target.address)+"/", "X-Apideck-Timeout: 300")
			if names.Lookups() == before {
				t.Errorf("%s: the name was not looked up; the response is %q", w.name, answer)
			}
			if strings.Contains(answer, "loopback") {
				s.wantRefused(t, answer, http.StatusForbidden)
				refused = true
			} else if got := statuses(answer); slices.Contains(got, http.StatusOK) {
				t.Errorf("%s: the response is %q, want an error", w.name, answer)
			}
		}
		if !refused {
			t.Errorf("%s: this machine's address was never refused: the test proves nothing", w.name)
		}
	}
	if n := target.connections.Load(); n > 0 {
		t.Errorf("%d connections to this machine, want none", n)
	}
}

// useNameServer makes the deployment's processes use the test's name server, through a
// resolv.conf that only they see. It needs root: resolv.conf cannot name another port than 53.
func (d *deployment) useNameServer(t testing.TB, address func(lookup int) netip.Addr) *dnstest.Server {
	t.Helper()
	const host = "127.53.53.53" // other name servers listen on other loopback addresses
	conn, err := net.ListenPacket("udp", host+":53")
	if err != nil {
		t.Skip("listening on port 53 needs root: ", err)
	}
	server := dnstest.Serve(t, conn, address)
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	writeFile(t, conf, "nameserver "+host+"\n")
	d.under = []string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, conf}
	if out, err := exec.Command(d.under[0], slices.Concat(d.under[1:], []string{"true"})...).CombinedOutput(); err != nil {
		if _, ran := errors.AsType[*exec.ExitError](err); ran || errors.Is(err, exec.ErrNotFound) {
			t.Skipf("needs a mount namespace: %v\n%s", err, out)
		}
		t.Fatal(err)
	}
	return server
}
