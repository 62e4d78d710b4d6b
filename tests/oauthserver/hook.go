package oauthserver

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// A Hook answers requests in place of the server, or lets it.
type Hook func(w http.ResponseWriter, r *http.Request, server http.Handler)

func (h Hook) serve(w http.ResponseWriter, r *http.Request, server http.Handler) {
	if h == nil {
		server.ServeHTTP(w, r)
		return
	}
	h(w, r, server)
}

// OnToken sets the hook of the token endpoint; nil takes it away. Requests under way
// keep the one that they began with.
func (s *Server) OnToken(hook Hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokenHook = hook
}

// OnAPI sets the hook of the API; nil takes it away.
func (s *Server) OnAPI(hook Hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apiHook = hook
}

// Fail answers without carrying out the request.
func Fail(status int, contentType, body string) Hook {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// Drop carries out the request and closes the connection in place of an answer.
func Drop(_ http.ResponseWriter, r *http.Request, server http.Handler) {
	server.ServeHTTP(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

// A Gate holds back answers.
type Gate struct {
	arrived chan struct{}
	opened  chan struct{}
	open    sync.Once
}

// HoldToken makes the token endpoint carry out requests and hold back its answers
// until the gate is opened, at the end of the test at the latest.
func (s *Server) HoldToken(t testing.TB) *Gate {
	g := &Gate{arrived: make(chan struct{}, 100), opened: make(chan struct{})}
	t.Cleanup(g.Open)
	s.OnToken(g.hold)
	return g
}

func (g *Gate) hold(w http.ResponseWriter, r *http.Request, server http.Handler) {
	answer := httptest.NewRecorder()
	server.ServeHTTP(answer, r)
	g.arrived <- struct{}{}
	select {
	case <-g.opened:
	case <-r.Context().Done():
		return
	}
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// Await waits for a request that the gate has not been awaited for yet.
func (g *Gate) Await(t testing.TB) {
	t.Helper()
	select {
	case <-g.arrived:
	case <-time.After(30 * time.Second):
		t.Fatal("no token request arrived")
	}
}

// Open lets go of the answers, those to come too.
func (g *Gate) Open() { g.open.Do(func() { close(g.opened) }) }
