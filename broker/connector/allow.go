package connector

import (
	"fmt"
	"strings"
)

// A HostError means that a credential may not be sent to a host.
type HostError struct {
	Connector ID
	Host      string // empty if what was given is none
	Fault     string
	Fix       string
}

// Error implements error.
func (e *HostError) Error() string {
	if e.Host == "" {
		return fmt.Sprintf("connector %s: the host %s: %s", e.Connector, e.Fault, e.Fix)
	}
	return fmt.Sprintf("connector %s: host %s %s: %s", e.Connector, e.Host, e.Fault, e.Fix)
}

// AllowsHost reports whether a connection with these settings may send its
// credential to hostport ("api.example.com", "[2001:db8::1]:8443") by the scheme.
// The error is a [*HostError].
//
// Allowed are base_url's host and those of allow_host, on the scheme's default port
// where they name none. Hosts are compared without regard to case, a trailing dot
// and the form of an internationalised name; what has userinfo or a percent sign in
// it is refused. The scheme is https; http too with allow_private.
//
// If settings decide base_url's host, each connection has its own: that one and the
// hosts of allow_host without wildcard are allowed then. A wildcard there says which
// origins a setting may name, not that one connection's credential may go to
// another's host.
//
// This is about names. What they resolve to is checked when it is dialled.
func (d *Definition) AllowsHost(scheme, hostport string, settings map[string]any) error {
	target, err := parseHostPort(hostport)
	if err != nil {
		return &HostError{Connector: d.ID, Fault: err.Error(), Fix: "send a URL with a plain host"}
	}
	refuse := func(fault, fix string) error {
		name := target.bracketed()
		if target.port != "" {
			name += ":" + target.port
		}
		return &HostError{Connector: d.ID, Host: name, Fault: fault, Fix: fix}
	}
	scheme = strings.ToLower(scheme)
	if scheme != "https" && (scheme != "http" || !d.AllowPrivate) {
		return refuse("would get the credential without TLS", "use https")
	}
	if target.ip && !d.AllowPrivate {
		return refuse("is an IP address", "use its name, or set allow_private")
	}
	templated := false
	if d.BaseURL != "" {
		t, err := d.urlTemplate(d.BaseURL)
		if err != nil {
			return refuse("cannot be compared with base_url, which is no URL", "correct base_url")
		}
		templated = t.isHostTemplated()
		// Without the settings there is no base host; literal hosts are allowed all the same.
		if baseScheme, base, err := d.renderHost(t, settings); err == nil &&
			base.host == target.host && base.portFor(baseScheme) == target.portFor(scheme) {
			return nil
		}
	}
	if d.inAllowHosts(target, scheme, !templated) {
		return nil
	}
	fix := "add it to the connector's allow_host if its credentials may go there"
	if templated {
		fix = "check the settings that say which host is the connection's own, or " + fix
	}
	return refuse("is not allowed", fix)
}

func (d *Definition) inAllowHosts(h hostPort, scheme string, wildcards bool) bool {
	for _, s := range d.AllowHosts {
		p, err := d.hostPattern(s)
		if err == nil && p.check(d.AllowPrivate) == nil && (wildcards || !p.wildcard) && p.matches(h, scheme) {
			return true
		}
	}
	return false
}
