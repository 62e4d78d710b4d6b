// Package inject puts credentials into requests to downstream and redacts them from the
// headers of its responses. It knows neither stores nor refreshes.
package inject

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// A Credential is what the injections of a connection put into each request. Requests
// share it.
type Credential struct {
	headers []header
	others  []connector.Injection // these depend on what the request already contains
	redact  []secret.String       // values that responses must not show
	size    int
}

type header struct {
	name  string
	value []string // shared by requests, none of which changes it
}

// Prepare returns the credential that consists of the injections.
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
			c.redact = append(c.redact, secret.New(value))
		}
	}
	return c
}

// Supplied returns a credential that the caller has sent: the value of the header
// Authorization.
func Supplied(authorization secret.String) *Credential {
	value := authorization.Reveal()
	c := &Credential{headers: []header{{"Authorization", []string{value}}}, size: len(value)}
	if _, credentials, ok := strings.Cut(value, " "); ok {
		c.redact = append(c.redact, secret.New(strings.TrimSpace(credentials)))
	}
	c.redact = append(c.redact, authorization)
	return c
}

// Size is the length of what goes into requests, in bytes.
func (c *Credential) Size() int { return c.size }

// Put puts the credential into req, which is the caller's own to change. Whatever stands
// where it goes is replaced.
func (c *Credential) Put(req *http.Request) {
	for _, h := range c.headers {
		removeHeader(req, h.name)
		req.Header[h.name] = h.value
	}
	for _, i := range c.others {
		if i.Kind == connector.InQuery {
			setQuery(req.URL, i.Name, i.Value)
		} else {
			setCookie(req, i.Name, i.Value)
		}
	}
}

// Headers returns the names of the headers that a connector's credentials are put in.
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
