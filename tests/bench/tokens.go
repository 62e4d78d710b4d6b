package main

import (
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/tokenpair"
)

// tokenLifetime is how long the tokens of a third party are valid, a whole number of seconds. A
// connection that is called again after that needs a refresh.
const tokenLifetime = 3 * time.Second

// A thirdParty is a token endpoint that rotates refresh tokens, and an API that answers with
// the access token that it got.
type thirdParty struct {
	address string
	server  *http.Server

	mu     sync.Mutex
	latest map[int]int // guarded by mu; the number of a connection's tokens
}

// startThirdParty starts a third party without connections.
func startThirdParty() (*thirdParty, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &thirdParty{address: listener.Addr().String(), latest: make(map[int]int)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", p.serveToken)
	mux.HandleFunc("GET "+credentialPath, func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")))
	})
	p.server = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = p.server.Serve(listener) }()
	return p, nil
}

func (p *thirdParty) close() error { return p.server.Close() }

// The first connections of the raw client and of the hop. Those before them are the broker's.
const (
	rawConnection = 1_000_000_000
	hopConnection = 2_000_000_000
)

// issue returns new tokens of a connection, as after an authorisation.
func (p *thirdParty) issue(connection int) tokenpair.Pair {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latest[connection]++
	return tokenpair.Pair{Connection: connection, Number: p.latest[connection]}
}

// current returns the latest tokens of a connection.
func (p *thirdParty) current(connection int) tokenpair.Pair {
	p.mu.Lock()
	defer p.mu.Unlock()
	return tokenpair.Pair{Connection: connection, Number: p.latest[connection]}
}

// rotate replaces a pair, if it is the latest one of its connection.
func (p *thirdParty) rotate(old tokenpair.Pair) (tokenpair.Pair, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.latest[old.Connection] != old.Number {
		return tokenpair.Pair{}, false
	}
	p.latest[old.Connection]++
	return old.Next(), true
}

func (p *thirdParty) serveToken(w http.ResponseWriter, r *http.Request) {
	old, ok := tokenpair.ParseRefresh(r.PostFormValue("refresh_token"))
	issued, isLatest := p.rotate(old)
	if !ok || !isLatest {
		tokenpair.Refuse(w)
		return
	}
	_ = issued.Issue(w, tokenLifetime)
}
