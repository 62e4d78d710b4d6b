package main

import (
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/tokenpair"
)

// A service is the third party: a token endpoint that rotates refresh tokens, and an API that
// takes its access tokens. Unlike oauthserver it does little for a request and remembers only the
// latest tokens of each connection, which leaves the machine to what is measured.
type service struct {
	address  string        // host:port
	lifetime time.Duration // of access tokens
	delay    time.Duration // before the token endpoint answers
	grants   []grant       // by connection
	server   *http.Server

	granted  atomic.Int64 // refreshes whose response reached the broker
	refused  atomic.Int64 // token requests with another refresh token than the latest
	requests perSecond    // token requests
	parallel level        // token requests in progress
}

// A grant is what the service knows of a connection.
type grant struct {
	mu       sync.Mutex // guards the fields below
	latest   token
	previous token
}

// A token is an access token with its refresh token.
type token struct {
	number    int       // 0: stored before the start
	expiry    time.Time // of the access token
	delivered time.Time // when the broker had the response; zero: not yet
	used      bool      // the API got the access token
}

// slack is how much less than its lifetime a token counts as valid: the broker counts from when
// it sends the request.
const slack = 2 * time.Second

func (t token) validAt(now time.Time) bool {
	return !t.delivered.IsZero() && t.delivered.Before(now) && t.expiry.Add(-slack).After(now)
}

// startService starts a service with a number of connections.
func startService(connections int, lifetime, delay time.Duration) (*service, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &service{address: listener.Addr().String(), lifetime: lifetime, delay: delay, grants: make([]grant, connections)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", s.serveToken)
	mux.HandleFunc("/", s.serveAPI)
	s.server = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.server.Serve(listener) }()
	return s, nil
}

func (s *service) close() error { return s.server.Close() }

// stored tells the service that a connection was stored with its token 0, which expires then.
func (s *service) stored(connection int, expiry time.Time) {
	g := &s.grants[connection]
	g.mu.Lock()
	defer g.mu.Unlock()
	g.latest, g.previous = token{expiry: expiry}, token{}
}

// held reports whether the broker holds a valid access token of a connection, and whether that
// was used before, which means that the broker has saved it.
func (s *service) held(connection int, now time.Time) (valid, used bool) {
	g := &s.grants[connection]
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range []token{g.latest, g.previous} {
		if t.validAt(now) {
			return true, t.used
		}
	}
	return false, false
}

// serveToken is the token endpoint.
func (s *service) serveToken(w http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
	s.requests.add(arrived)
	s.parallel.enter()
	defer s.parallel.leave()
	old, ok := tokenpair.ParseRefresh(r.PostFormValue("refresh_token"))
	time.Sleep(s.delay)
	if !ok || old.Connection >= len(s.grants) || !s.rotate(old.Connection, old.Number, arrived) {
		s.refused.Add(1)
		tokenpair.Refuse(w)
		return
	}
	err := old.Next().Issue(w, s.lifetime)
	if err != nil || http.NewResponseController(w).Flush() != nil || r.Context().Err() != nil {
		return
	}
	s.granted.Add(1)
	g := &s.grants[old.Connection]
	g.mu.Lock()
	defer g.mu.Unlock()
	g.latest.delivered = time.Now()
}

// rotate replaces the tokens of a connection, if number is the latest one's.
func (s *service) rotate(connection, number int, arrived time.Time) bool {
	g := &s.grants[connection]
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.latest.number != number {
		return false
	}
	g.previous = g.latest
	g.latest = token{number: number + 1, expiry: arrived.Add(s.lifetime)}
	return true
}

// serveAPI takes the two latest access tokens of a connection until they expire.
func (s *service) serveAPI(w http.ResponseWriter, r *http.Request) {
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	sent, ok := tokenpair.ParseAccess(bearer)
	if !ok || sent.Connection >= len(s.grants) || !s.use(sent.Connection, sent.Number) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"id":"1","status":"active"}`))
}

// use notes that a token was used, and reports whether it is valid.
func (s *service) use(connection, number int) bool {
	g := &s.grants[connection]
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for _, t := range []*token{&g.latest, &g.previous} {
		if t.number == number && t.expiry.After(now) {
			t.used = true
			if t.delivered.IsZero() {
				t.delivered = now
			}
			return true
		}
	}
	return false
}
