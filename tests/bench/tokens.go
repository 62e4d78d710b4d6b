package main

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
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

// rawConnection is the first connection of the raw client. Those before it are the broker's.
const rawConnection = 1_000_000_000

// A pair is the tokens of a connection, of the length of those that [newRecord] has.
type pair struct{ connection, number int }

func (p pair) access() string { return fmt.Sprintf("access-token-%030d-%020d", p.connection, p.number) }

func (p pair) refresh() string {
	return fmt.Sprintf("refresh-token-%029d-%020d", p.connection, p.number)
}

// parseRefreshToken is the inverse of refresh.
func parseRefreshToken(text string) (p pair, ok bool) {
	rest, found := strings.CutPrefix(text, "refresh-token-")
	first, second, both := strings.Cut(rest, "-")
	connection, connectionErr := strconv.Atoi(first)
	number, numberErr := strconv.Atoi(second)
	return pair{connection, number}, found && both && connectionErr == nil && numberErr == nil
}

// issue returns new tokens of a connection, as after an authorisation.
func (p *thirdParty) issue(connection int) pair {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latest[connection]++
	return pair{connection, p.latest[connection]}
}

// current returns the latest tokens of a connection.
func (p *thirdParty) current(connection int) pair {
	p.mu.Lock()
	defer p.mu.Unlock()
	return pair{connection, p.latest[connection]}
}

// rotate replaces a pair, if it is the latest one of its connection.
func (p *thirdParty) rotate(old pair) (pair, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.latest[old.connection] != old.number {
		return pair{}, false
	}
	p.latest[old.connection]++
	return pair{old.connection, old.number + 1}, true
}

func (p *thirdParty) serveToken(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	old, ok := parseRefreshToken(r.PostFormValue("refresh_token"))
	issued, isLatest := p.rotate(old)
	if !ok || !isLatest {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"invalid_grant"}`))
		return
	}
	_, _ = fmt.Fprintf(w, `{"access_token":%q,"refresh_token":%q,"token_type":"Bearer","expires_in":%d}`,
		issued.access(), issued.refresh(), tokenLifetime/time.Second)
}
