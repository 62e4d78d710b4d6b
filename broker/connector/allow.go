package connector

import (
	"fmt"
	"strings"
)

// A HostError means that a credential may not be sent to a host.
type HostError struct {
	Connector ID
	Host      string // empty if the caller's text is not a host
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
// Allowed are base_url's host and those of allow_host, on the scheme's default port unless
// they name one. Hosts are compared without regard to case, a trailing dot and the form of
// an internationalised name; userinfo and percent signs are refused. The scheme is https, or
// with allow_private http as well.
//
// If settings decide base_url's host, each connection has its own: then that host and the
// hosts of allow_host without a wildcard are allowed. A wildcard there says which origins a
// setting may name, not that one connection's credential may go to another's host.
//
// This checks names only. Addresses are checked when they are dialled.
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
	templated := false // settings decide base_url's host, so wildcards do not count
	if d.BaseURL != "" {
		t, err := d.urlTemplate(d.BaseURL)
		if err != nil {
			return refuse("cannot be compared with base_url, which is not a URL", "correct base_url")
		}
		templated = t.isHostTemplated()
		// If a setting is missing there is no base host, but hosts of allow_host stay allowed.
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
		fix = "check the settings that decide the connection's host, or " + fix
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
