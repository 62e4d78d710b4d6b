package fields

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/net/idna"
)

// Authorities are the hosts and ports that this server answers for. The zero value has none.
type Authorities struct{ known atomic.Pointer[listeners] }

type listeners struct {
	ports     map[uint16]bool
	names     map[string]bool // of sites, normalised
	wildcards [][]string      // the labels of names such as *.example.com
}

// Set replaces the authorities by those ports, on each address of the machine, and those names
// of sites.
func (a *Authorities) Set(ports []uint16, names []string) {
	l := &listeners{ports: make(map[uint16]bool), names: make(map[string]bool)}
	for _, port := range ports {
		l.ports[port] = true
	}
	for _, name := range names {
		host, ok := normalHost(name)
		switch {
		case !ok:
		case strings.Contains(host, "*"):
			l.wildcards = append(l.wildcards, strings.Split(host, "."))
		default:
			l.names[host] = true
		}
	}
	a.known.Store(l)
}

func (a *Authorities) listensOn(port uint16) bool {
	l := a.known.Load()
	return l != nil && l.ports[port]
}

func (a *Authorities) hasSite(name string) bool {
	l := a.known.Load()
	return l != nil && (l.names[name] || slices.ContainsFunc(l.wildcards, func(labels []string) bool {
		// As Caddy matches them: an asterisk stands for one label.
		return slices.EqualFunc(labels, strings.Split(name, "."), func(pattern, label string) bool { return pattern == "*" || pattern == label })
	}))
}

// A relation says whose an authority is.
type relation uint8

const (
	foreign       relation = iota
	callersOwn             // the authority that the caller's request was sent to
	anotherOfOurs          // another of the broker's, or one that cannot be read
)

// An endpoint is an authority in normal form.
type endpoint struct {
	host string
	port uint16
}

// ownAuthorities are the broker's authorities, as seen from one request.
type ownAuthorities struct {
	all      *Authorities
	asked    endpoint   // what the caller's request was sent to
	fronts   []endpoint // the same, as proxies in front of the broker, and reverse_proxy, say
	local    string     // the address that the request arrived at; empty if unknown
	target   endpoint   // downstream
	ofTarget bool       // downstream is on this machine
}

func newOwnAuthorities(r *Response) ownAuthorities {
	o := ownAuthorities{all: r.Policy.Own}
	if o.all == nil {
		o.all = &Authorities{}
	}
	scheme := schemeOf(r.Caller)
	o.asked, _ = parseAuthority(scheme, r.Caller.Host)
	for _, value := range r.Caller.Header["X-Forwarded-Host"] {
		for host := range strings.SplitSeq(value, ",") {
			if e, ok := parseAuthority("", strings.TrimSpace(host)); ok {
				o.fronts = append(o.fronts, e)
			}
		}
	}
	if address, ok := r.Caller.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if e, ok := parseAuthority(scheme, address.String()); ok {
			o.local = e.host
		}
	}
	o.target, _ = parseAuthority(r.Scheme, r.Host)
	o.ofTarget = isLoopback(o.target.host)
	if !r.Policy.IsProxy && len(o.fronts) > 0 {
		// reverse_proxy keeps the caller's Host there, and an operator may have replaced Host.
		o.asked = o.fronts[0]
		if o.asked.port == 0 {
			o.asked.port = map[string]uint16{"http": 80, "https": 443}[scheme]
		}
	}
	return o
}

// check says whose an authority is. An empty scheme is that of the request.
func (o *ownAuthorities) check(scheme, authority string) relation {
	e, ok := parseAuthority(scheme, authority)
	if !ok {
		return anotherOfOurs
	}
	for _, front := range o.fronts {
		if e.host == front.host && (e.port == front.port || front.port == 0) {
			return callersOwn
		}
	}
	switch {
	case e == o.asked || e.port == 0 && e.host == o.asked.host:
		return callersOwn
	case e == o.target:
		return foreign
	case e.host == o.asked.host && o.all.listensOn(e.port):
		return anotherOfOurs
	case isLoopback(e.host) && (!o.ofTarget || o.all.listensOn(e.port)):
		return anotherOfOurs // a service elsewhere has nothing to say about this machine
	case (e.host == o.local || o.all.hasSite(e.host)) && o.all.listensOn(e.port):
		return anotherOfOurs
	default:
		return foreign
	}
}

// parseAuthority reads an authority as the most lenient clients do. The port is the scheme's
// if none is given, 0 without a scheme.
func parseAuthority(scheme, s string) (endpoint, bool) {
	s = s[strings.LastIndexByte(s, '@')+1:]
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		host, port = s[:i], s[i+1:]
	}
	e := endpoint{}
	switch {
	case port != "":
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return e, false
		}
		e.port = uint16(n)
	case scheme == "https" || scheme == "wss":
		e.port = 443
	case scheme == "http" || scheme == "ws":
		e.port = 80
	}
	var ok bool
	e.host, ok = normalHost(host)
	return e, ok
}

// normalHost returns a host in the form in which hosts can be compared, or false if clients
// would not agree about it. Like the URL standard, it decodes percent signs, applies IDNA, and
// reads numbers such as 127.1 and 0x7f000001 as IPv4 addresses.
func normalHost(s string) (string, bool) {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		if !ok {
			return "", false
		}
		addr, err := netip.ParseAddr(inner)
		return addr.WithZone("").Unmap().String(), err == nil
	}
	s, err := url.PathUnescape(s)
	if err != nil {
		return "", false
	}
	if strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) >= 0 {
		if s, err = idna.Lookup.ToASCII(s); err != nil {
			return "", false
		}
	}
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if s == "" || strings.ContainsAny(s, " \t/\\?#@:<>[]^|%") {
		return "", false
	}
	last := s[strings.LastIndexByte(s, '.')+1:]
	if last == "" || last[0] < '0' || last[0] > '9' {
		return s, true
	}
	return numericHost(s)
}

// numericHost reads an IPv4 address of one to four numbers, decimal, octal or hexadecimal.
func numericHost(s string) (string, bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return "", false
	}
	var address uint64
	for i, part := range parts {
		base := 10
		switch {
		case strings.HasPrefix(part, "0x"):
			part, base = part[2:], 16
			if part == "" {
				part = "0"
			}
		case len(part) > 1 && part[0] == '0':
			part, base = part[1:], 8
		}
		n, err := strconv.ParseUint(part, base, 32)
		left := 4 - i // bytes that the last number stands for
		if err != nil || i < len(parts)-1 && n > 255 || i == len(parts)-1 && n >= 1<<(8*left) {
			return "", false
		}
		if i == len(parts)-1 {
			address |= n
		} else {
			address |= n << (8 * (3 - i))
		}
	}
	return netip.AddrFrom4([4]byte{byte(address >> 24), byte(address >> 16), byte(address >> 8), byte(address)}).String(), true
}

// isLoopback reports whether a host in normal form is this machine.
func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && (addr.IsLoopback() || addr.IsUnspecified())
}
