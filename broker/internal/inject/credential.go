// Package inject puts credentials into requests to downstream and redacts them from the headers
// of responses. It knows no connections, stores or refreshes, and sends nothing. Package broker
// uses it when it authorises a request.
package inject

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// A Credential is the rendered credential of a connection. It is immutable, and requests share
// it.
type Credential struct {
	headers []header
	others  []connector.Injection // query parameters and cookies, merged with the request's
	redact  []hidden              // to redact from responses
	least   int                   // the length of the shortest in redact, in bytes
	size    int                   // bytes
}

type header struct {
	name  string
	value []string // shared by requests; not modified
}

// Prepare returns the credential made of the injections.
func Prepare(injections []connector.Injection) *Credential {
	c := &Credential{}
	for _, i := range injections {
		c.size += len(i.Value)
		if i.Kind == connector.InHeader {
			c.headers = append(c.headers, header{i.Name, []string{i.Value}})
		} else {
			c.others = append(c.others, i)
		}
		for _, value := range i.Secrets {
			c.hide(value)
		}
	}
	return c
}

// Supplied returns a credential that the caller sent: a value for the Authorization header. A
// zero value is no credential.
func Supplied(authorization secret.String) *Credential {
	if authorization.IsZero() {
		return &Credential{}
	}
	value := authorization.Reveal()
	c := &Credential{headers: []header{{"Authorization", []string{value}}}, size: len(value)}
	if _, credentials, ok := strings.Cut(value, " "); ok {
		c.hide(strings.TrimSpace(credentials))
	}
	c.hide(value)
	return c
}

func (c *Credential) hide(value string) {
	if len(value) < shortest {
		return
	}
	if len(c.redact) == 0 || len(value) < c.least {
		c.least = len(value)
	}
	c.redact = append(c.redact, hide(value))
}

// Size returns how much the credential adds to a request, in bytes.
func (c *Credential) Size() int { return c.size }

// Put puts the credential into req. It replaces headers, cookies and query parameters of the
// same names.
func (c *Credential) Put(req *http.Request) {
	for _, h := range c.headers {
		removeHeader(req, h.name)
		req.Header[h.name] = h.value
	}
	for _, i := range c.others {
		switch i.Kind {
		case connector.InQuery:
			setQuery(req.URL, i.Name, i.Value)
		case connector.InCookie:
			setCookie(req, i.Name, i.Value)
		case connector.InHeader, connector.InBasic: // in c.headers
		}
	}
}

// Headers returns the canonical names of the headers that carry a connector's credentials.
func Headers(def *connector.Definition) []string {
	var names []string
	for _, p := range def.Placements() {
		name := "Authorization"
		switch p.Kind {
		case connector.InQuery:
			continue
		case connector.InCookie:
			name = "Cookie"
		case connector.InHeader:
			name = textproto.CanonicalMIMEHeaderKey(p.Name)
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
