package oauthserver

import (
	"net/http"
	"slices"

	"github.com/ory/fosite"
)

const revocationPath = "/oauth/revoke"

// serveOAuth serves the token endpoint, and the revocation endpoint beside it.
func (s *Server) serveOAuth(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == revocationPath {
		s.serveRevocation(w, r)
		return
	}
	s.serveToken(w, r)
}

// serveRevocation is the revocation endpoint (RFC 7009). It revokes the whole grant of a token.
func (s *Server) serveRevocation(w http.ResponseWriter, r *http.Request) {
	err := s.provider.NewRevocationRequest(fosite.NewContext(), r)
	if err == nil {
		token := r.PostForm.Get("token")
		s.mu.Lock()
		of, ok := s.refresh[token]
		if !ok {
			of = s.access[token]
		}
		s.revoked = append(s.revoked, of)
		s.mu.Unlock()
	}
	s.provider.WriteRevocationResponse(fosite.NewContext(), w, err)
}

// Revoked returns the tokens that were sent to the revocation endpoint.
func (s *Server) Revoked() []Generation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.revoked)
}
