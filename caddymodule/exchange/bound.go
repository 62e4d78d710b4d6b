package exchange

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// authenticatesConnection reports whether downstream takes a credential as one of the whole
// connection (RFC 4559 section 6), so that no other caller may use it.
func authenticatesConnection(header http.Header) bool {
	for _, value := range header["Authorization"] {
		scheme := value
		if end := strings.IndexAny(value, " \t"); end >= 0 { // some servers take a tab for a space
			scheme = value[:end]
		}
		for _, bound := range []string{"NTLM", "Negotiate", "Kerberos", "CredSSP"} {
			if strings.EqualFold(scheme, bound) {
				return true
			}
		}
	}
	return false
}

// A user is who may share a connection to downstream that is authenticated as a whole: the
// requests for one record that come over one connection of a caller. A handshake
// takes several of them.
type user struct {
	local  net.Addr // a pointer that each connection has of its own, except over HTTP/3
	remote string
	key    any // of the record; comparable
}

// boundFor returns the transport for requests of a user. Without a connection of the caller
// each request gets a new connection.
func (p *Pool) boundFor(ctx context.Context, key any) *http.Transport {
	local, _ := ctx.Value(http.LocalAddrContextKey).(net.Addr)
	request, ok := ctx.Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if local == nil || !ok {
		rt := p.bound()
		rt.DisableKeepAlives = true
		return rt
	}
	u := user{local, request.RemoteAddr, key}
	p.mu.Lock()
	defer p.mu.Unlock()
	if rt := p.users[u]; rt != nil {
		return rt
	}
	rt := p.bound()
	if p.users == nil {
		p.users = make(map[user]*http.Transport)
	}
	p.users[u] = rt
	age := p.age
	if age <= 0 {
		age = DefaultConnectionAge
	}
	time.AfterFunc(age, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.users, u)
		rt.CloseIdleConnections()
	})
	return rt
}

// bound returns a new transport for one user. HTTP/2 sends requests over a connection at the
// same time, so servers offer it no such authentication.
func (p *Pool) bound() *http.Transport {
	rt := p.create()
	rt.ForceAttemptHTTP2 = false
	rt.TLSNextProto = make(map[string]func(string, *tls.Conn) http.RoundTripper)
	rt.Protocols = new(http.Protocols)
	rt.Protocols.SetHTTP1(true)
	rt.MaxIdleConnsPerHost = 1
	return rt
}
