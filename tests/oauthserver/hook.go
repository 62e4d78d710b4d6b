package oauthserver

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// A Hook handles a request in place of the server. It may call server.
type Hook func(w http.ResponseWriter, r *http.Request, server http.Handler)

func (h Hook) serve(w http.ResponseWriter, r *http.Request, server http.Handler) {
	if h == nil {
		server.ServeHTTP(w, r)
		return
	}
	h(w, r, server)
}

// OnToken sets the hook of the token endpoint; nil removes it. Requests in progress keep the
// hook that they started with.
func (s *Server) OnToken(hook Hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokenHook = hook
}

// OnAPI sets the hook of the API; nil removes it.
func (s *Server) OnAPI(hook Hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apiHook = hook
}

// Fail returns a hook that responds without carrying out the request.
func Fail(status int, contentType, body string) Hook {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// Drop is a hook that carries out the request and closes the connection without a response.
func Drop(_ http.ResponseWriter, r *http.Request, server http.Handler) {
	server.ServeHTTP(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

// A Gate holds back responses.
type Gate struct {
	arrived chan struct{}
	opened  chan struct{}
	open    sync.Once
}

// HoldToken makes the token endpoint carry out requests and hold back its responses until the
// gate is opened. The end of the test opens it.
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

// Await waits for the next request to arrive; each call waits for another one.
func (g *Gate) Await(t testing.TB) {
	t.Helper()
	select {
	case <-g.arrived:
	case <-time.After(30 * time.Second):
		t.Fatal("no token request arrived")
	}
}

// Open releases the responses, including later ones.
func (g *Gate) Open() { g.open.Do(func() { close(g.opened) }) }
