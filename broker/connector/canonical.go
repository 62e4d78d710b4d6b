package connector

import (
	"net/netip"
	"strconv"
	"strings"
)

// CanonicalHost returns the one spelling of a URL's host and port that requests should use:
// lower case, punycode, without a trailing dot and without the scheme's default port; an IP
// address in its short form, unmapped. Resolvers, TLS and servers read other spellings in
// different ways, and might each see another host.
func CanonicalHost(scheme, hostport string) (string, error) {
	if isCanonical(scheme, hostport) {
		return hostport, nil
	}
	h, err := parseHostPort(hostport)
	if err != nil {
		return "", err
	}
	if h.port == defaultPort(scheme) {
		h.port = ""
	}
	return authority(h), nil
}

// isCanonical reports whether a name, with or without a port, has its canonical spelling. It
// is the common case of [CanonicalHost], and does not check the name.
func isCanonical(scheme, hostport string) bool {
	name, port, hasPort := strings.Cut(hostport, ":")
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || port[0] == '0' || port == defaultPort(scheme) {
			return false
		}
	}
	for i := range len(name) {
		if !plainName[name[i]] {
			return false
		}
	}
	if name == "" || name[len(name)-1] == '.' {
		return false
	}
	if last := name[strings.LastIndexByte(name, '.')+1:]; !startsWithDigit(name) || !startsWithDigit(last) {
		return true
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.Is4()
}

// plainName are the bytes of a name that have one spelling.
var plainName = only("abcdefghijklmnopqrstuvwxyz0123456789-._")

func defaultPort(scheme string) string {
	if scheme == "http" {
		return "80"
	}
	return "443"
}
