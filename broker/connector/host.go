package connector

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"
)

// A hostPort is a host in canonical form, so that hosts can be compared: lower case,
// punycode, without a trailing dot; an IP address as netip writes it, unmapped.
type hostPort struct {
	host string
	ip   bool
	port string // decimal; empty: the scheme's default
}

var (
	errHostSyntax = errors.New("is not a host name or IP address")
	errPort       = errors.New("has a port that is not between 1 and 65535")
)

// parseHostPort reads a URL's authority without userinfo. Percent signs (encoded hosts, IPv6
// zones) are refused: parsers disagree about them, and no service needs them.
func parseHostPort(s string) (hostPort, error) {
	if strings.ContainsAny(s, "@/\\?#% \t\r\n\x00") {
		return hostPort{}, errHostSyntax
	}
	host, port := s, ""
	if inner, ok := strings.CutPrefix(s, "["); ok {
		addr, rest, closed := strings.Cut(inner, "]")
		if !closed || !strings.Contains(addr, ":") || rest != "" && rest[0] != ':' {
			return hostPort{}, errHostSyntax
		}
		host, port = addr, strings.TrimPrefix(rest, ":")
	} else if strings.Count(s, ":") == 1 { // more than one: an IPv6 address without brackets
		host, port, _ = strings.Cut(s, ":")
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return hostPort{}, errPort
		}
		port = strconv.FormatUint(n, 10)
	}
	name, ip, err := normalizeHost(host)
	return hostPort{host: name, ip: ip, port: port}, err
}

func normalizeHost(s string) (host string, ip bool, err error) {
	if strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) >= 0 {
		if !utf8.ValidString(s) {
			return "", false, errHostSyntax
		}
		if s, err = idna.Lookup.ToASCII(s); err != nil {
			return "", false, errHostSyntax
		}
	}
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if strings.Contains(s, ":") || startsWithDigit(s) { // nothing else can be an address
		if addr, err := netip.ParseAddr(s); err == nil {
			return addr.Unmap().String(), true, nil
		}
	}
	for label := range strings.SplitSeq(s, ".") {
		if !validLabel(label) {
			return "", false, errHostSyntax
		}
	}
	// "127.1", "0x7f000001": some resolvers take these for IPv4 addresses, as the URL standard
	// does with every host whose last label is a number.
	last := s[strings.LastIndexByte(s, '.')+1:]
	if startsWithDigit(last) {
		if _, err := strconv.ParseUint(last, 0, 64); err == nil || strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
			return "", false, errHostSyntax
		}
	}
	if len(s) > 253 {
		return "", false, errHostSyntax
	}
	return s, false, nil
}

func startsWithDigit(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }

// validLabel reports whether s is a label of letters, digits and hyphens (RFC 1123
// section 2.1), or of underscores, which some services' hosts have.
func validLabel(s string) bool {
	return s != "" && len(s) <= 63 && s[0] != '-' && s[len(s)-1] != '-' && hasNameBytes(s)
}

// portFor returns the port that a request of the scheme goes to.
func (h hostPort) portFor(scheme string) string {
	if h.port != "" {
		return h.port
	}
	return defaultPort(scheme)
}

// bracketed returns the host as it is written in a URL.
func (h hostPort) bracketed() string {
	if h.ip && strings.Contains(h.host, ":") {
		return "[" + h.host + "]"
	}
	return h.host
}

// A hostPattern is an entry of allow_host.
type hostPattern struct {
	hostPort
	wildcard bool // stands for any one label in front of host
	owner    owner
}

// An owner says who owns the names below a domain.
type owner int

const (
	ownedByOne   owner = iota
	ownedByMany        // below a public suffix: "com", "github.io"
	ownedLocally       // below a single label that is not a public suffix: "test"
)

// readHostPattern parses a pattern. [hostPattern.check] says whether it may be used.
func readHostPattern(s string) (hostPattern, error) {
	if strings.Contains(s, "/") {
		return hostPattern{}, errors.New("is not a host: leave out the scheme and the path")
	}
	rest, wildcard := strings.CutPrefix(s, "*.")
	if strings.Contains(rest, "*") {
		return hostPattern{}, errors.New("may have one wildcard, for the whole first label: *.example.com")
	}
	hp, err := parseHostPort(rest)
	if err != nil {
		return hostPattern{}, err
	}
	p := hostPattern{hostPort: hp, wildcard: wildcard}
	if suffix, icann := publicsuffix.PublicSuffix(hp.host); wildcard && suffix == hp.host {
		p.owner = ownedByMany
		if !icann && !strings.Contains(hp.host, ".") {
			p.owner = ownedLocally
		}
	}
	return p, nil
}

// check returns an error if the pattern may not be used.
func (p *hostPattern) check(allowPrivate bool) error {
	switch {
	case p.ip && (p.wildcard || !allowPrivate):
		return errors.New("is an IP address: use a name, or set allow_private")
	case p.owner == ownedByMany, p.owner == ownedLocally && !allowPrivate:
		return errors.New("would match hosts of many owners: " + p.host + " is a public suffix")
	default:
		return nil
	}
}

func (p hostPattern) matches(h hostPort, scheme string) bool {
	if p.portFor(scheme) != h.portFor(scheme) {
		return false
	}
	if !p.wildcard {
		return p.host == h.host
	}
	_, parent, ok := strings.Cut(h.host, ".")
	return ok && !h.ip && parent == p.host
}
