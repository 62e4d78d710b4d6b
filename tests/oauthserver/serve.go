package oauthserver

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ory/fosite"
)

// A TokenRequest is a request to the token endpoint.
type TokenRequest struct {
	GrantType string
	Refresh   Generation // the refresh token sent; Customer is empty if it is unknown
	Source    string     // the query of the token URL, to tell clients apart
	Arrived   time.Time
	Answered  time.Time // zero: no response, or not yet
	Status    int       // 0: no response, or not yet
	Delivered bool      // the client was still connected when the whole response was written
	Granted   bool      // new tokens were issued, delivered or not
	Reused    bool      // the refresh token was spent already, so the grant was revoked
}

// A Call is a request to the API.
type Call struct {
	Token  Generation // the access token; zero below /open/
	Status int
	Method string
	Path   string
	Query  string
	Host   string
	Header http.Header
}

// TokenRequests returns the token requests with a customer's refresh tokens, including those in
// progress.
func (s *Server) TokenRequests(customer string) []TokenRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	var requests []TokenRequest
	for _, r := range s.requests {
		if r.Refresh.Customer == customer {
			requests = append(requests, *r)
		}
	}
	return requests
}

// Undelivered returns the token requests whose response did not completely reach the client, in
// the order of arrival.
func (s *Server) Undelivered() []TokenRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	var requests []TokenRequest
	for _, r := range s.requests {
		if !r.Delivered {
			requests = append(requests, *r)
		}
	}
	return requests
}

// Redeemed returns how many token requests contained one of a customer's refresh tokens, by its
// number: 0 is the login's.
func (s *Server) Redeemed(customer string, number int) int {
	count := 0
	for _, r := range s.TokenRequests(customer) {
		if r.Refresh.Number == number {
			count++
		}
	}
	return count
}

// Calls returns the requests to the API with a customer's access tokens.
func (s *Server) Calls(customer string) []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	var calls []Call
	for _, c := range s.calls {
		if c.Token.Customer == customer {
			calls = append(calls, *c)
		}
	}
	return calls
}

func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil || r.Method != http.MethodPost || r.URL.Path != "/oauth/token" {
		http.Error(w, "POST /oauth/token is the token endpoint", http.StatusNotFound)
		return
	}
	entry := &TokenRequest{GrantType: r.PostForm.Get("grant_type"), Source: r.URL.RawQuery, Arrived: time.Now()}
	s.mu.Lock()
	entry.Refresh = s.refresh[r.PostForm.Get("refresh_token")]
	s.requests = append(s.requests, entry)
	hook := s.tokenHook
	s.mu.Unlock()

	recorder := &statusWriter{ResponseWriter: w}
	// The hook may panic, to close the connection without a response.
	hook.serve(recorder, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.redeem(w, r, entry) }))
	_ = http.NewResponseController(w).Flush()
	s.mu.Lock()
	defer s.mu.Unlock()
	entry.Status, entry.Delivered, entry.Answered = recorder.status, r.Context().Err() == nil, time.Now()
}

// redeem carries out a token request.
func (s *Server) redeem(w http.ResponseWriter, r *http.Request, entry *TokenRequest) {
	s.redeeming.Lock()
	defer s.redeeming.Unlock()
	reuses := s.Reuses()
	granted := false
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		entry.Granted, entry.Reused = granted, s.reuses > reuses
	}()
	// A client that goes away does not stop the request, so r.Context is not used.
	ctx := fosite.NewContext()
	request, err := s.provider.NewAccessRequest(ctx, r, &fosite.DefaultSession{})
	if err != nil {
		s.provider.WriteAccessError(ctx, w, request, err)
		return
	}
	response, err := s.provider.NewAccessResponse(ctx, request)
	if err != nil {
		s.provider.WriteAccessError(ctx, w, request, err)
		return
	}
	granted = true
	s.provider.WriteAccessResponse(ctx, w, request, response)
}

func (s *Server) serveAPI(w http.ResponseWriter, r *http.Request) {
	call := &Call{Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Host: r.Host, Header: r.Header.Clone()}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	call.Token = s.access[token]
	s.calls = append(s.calls, call)
	hook := s.apiHook
	s.mu.Unlock()

	recorder := &statusWriter{ResponseWriter: w}
	hook.serve(recorder, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.answerCall(w, r, token, call.Token)
	}))
	s.mu.Lock()
	defer s.mu.Unlock()
	call.Status = recorder.status
}

// answerCall responds with the customer and the number of the token, not the token itself. Paths
// below /open/ need no token.
func (s *Server) answerCall(w http.ResponseWriter, r *http.Request, token string, generation Generation) {
	w.Header().Set("Content-Type", "application/json")
	if !strings.HasPrefix(r.URL.Path, "/open/") {
		_, _, err := s.provider.IntrospectToken(r.Context(), token, fosite.AccessToken, &fosite.DefaultSession{})
		if err != nil {
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`) // RFC 6750 section 3.1
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error":"invalid_token"}`))
			return
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"customer": generation.Customer, "generation": generation.Number, "method": r.Method, "path": r.URL.Path,
	})
}

// LastCall returns the latest request to the API whose path ends with suffix.
func (s *Server) LastCall(suffix string) (Call, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range slices.Backward(s.calls) {
		if strings.HasSuffix(c.Path, suffix) {
			return *c, true
		}
	}
	return Call{}, false
}

// statusWriter records the status of a response.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements [http.ResponseWriter].
func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}
