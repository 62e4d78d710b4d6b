package oauthserver

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"strings"
	"sync"

	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/oauth2"
	"github.com/ory/fosite/storage"
)

// A strategy generates fosite's tokens, adds prefixes, and counts them.
type strategy struct {
	oauth2.CoreStrategy
	server *Server
}

// GenerateAccessToken implements [oauth2.AccessTokenStrategy].
func (s *strategy) GenerateAccessToken(ctx context.Context, r fosite.Requester) (string, string, error) {
	token, signature, err := s.CoreStrategy.GenerateAccessToken(ctx, r)
	token = s.server.config.AccessPrefix + token
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.access[token] = Generation{Customer: r.GetSession().GetSubject(), Number: s.server.issued[r.GetID()]}
	s.server.issued[r.GetID()]++
	return token, signature, err
}

// AccessTokenSignature implements [oauth2.AccessTokenStrategy].
func (s *strategy) AccessTokenSignature(ctx context.Context, token string) string {
	return s.CoreStrategy.AccessTokenSignature(ctx, strings.TrimPrefix(token, s.server.config.AccessPrefix))
}

// ValidateAccessToken implements [oauth2.AccessTokenStrategy].
func (s *strategy) ValidateAccessToken(ctx context.Context, r fosite.Requester, token string) error {
	return s.CoreStrategy.ValidateAccessToken(ctx, r, strings.TrimPrefix(token, s.server.config.AccessPrefix))
}

// GenerateRefreshToken implements [oauth2.RefreshTokenStrategy]. It is called right
// after GenerateAccessToken.
func (s *strategy) GenerateRefreshToken(ctx context.Context, r fosite.Requester) (string, string, error) {
	if sent := r.GetRequestForm().Get("refresh_token"); s.server.config.NoRotation && sent != "" {
		return sent, s.RefreshTokenSignature(ctx, sent), nil
	}
	token, signature, err := s.CoreStrategy.GenerateRefreshToken(ctx, r)
	token = s.server.config.RefreshPrefix + token
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.refresh[token] = Generation{Customer: r.GetSession().GetSubject(), Number: s.server.issued[r.GetID()] - 1}
	return token, signature, err
}

// RefreshTokenSignature implements [oauth2.RefreshTokenStrategy].
func (s *strategy) RefreshTokenSignature(ctx context.Context, token string) string {
	return s.CoreStrategy.RefreshTokenSignature(ctx, strings.TrimPrefix(token, s.server.config.RefreshPrefix))
}

// ValidateRefreshToken implements [oauth2.RefreshTokenStrategy].
func (s *strategy) ValidateRefreshToken(ctx context.Context, r fosite.Requester, token string) error {
	return s.CoreStrategy.ValidateRefreshToken(ctx, r, strings.TrimPrefix(token, s.server.config.RefreshPrefix))
}

// A store is fosite's store. It counts when a spent refresh token is sent.
type store struct {
	*storage.MemoryStore
	server *Server

	revoking sync.RWMutex // fosite's store does not synchronise reads with revocations
}

func newStore(server *Server) *store {
	s := &store{MemoryStore: storage.NewMemoryStore(), server: server}
	s.Clients[ClientID] = server.client
	for name, password := range server.config.Passwords {
		s.Users[name] = storage.MemoryUserRelation{Username: name, Password: password}
	}
	return s
}

// GetRefreshTokenSession implements [oauth2.RefreshTokenStorage].
func (s *store) GetRefreshTokenSession(ctx context.Context, signature string, session fosite.Session) (fosite.Requester, error) {
	s.revoking.RLock()
	r, err := s.MemoryStore.GetRefreshTokenSession(ctx, signature, session)
	s.revoking.RUnlock()
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	if errors.Is(err, fosite.ErrInactiveToken) && s.server.spent[signature] {
		s.server.reuses++
	}
	return r, err
}

// RotateRefreshToken implements [oauth2.RefreshTokenStorage].
func (s *store) RotateRefreshToken(ctx context.Context, requestID, signature string) error {
	if s.server.config.NoRotation {
		return s.RevokeAccessToken(ctx, requestID)
	}
	s.server.mu.Lock()
	s.server.spent[signature] = true
	s.server.mu.Unlock()
	s.revoking.Lock()
	defer s.revoking.Unlock()
	return s.MemoryStore.RotateRefreshToken(ctx, requestID, signature)
}

// RevokeRefreshToken implements [oauth2.TokenRevocationStorage].
func (s *store) RevokeRefreshToken(ctx context.Context, requestID string) error {
	s.revoking.Lock()
	defer s.revoking.Unlock()
	return s.MemoryStore.RevokeRefreshToken(ctx, requestID)
}

// plain compares client secrets without hashing: bcrypt would only cost time here.
type plain struct{}

// Compare implements [fosite.Hasher].
func (plain) Compare(_ context.Context, hash, data []byte) error {
	if subtle.ConstantTimeCompare(hash, data) != 1 {
		return errors.New("wrong client secret")
	}
	return nil
}

// Hash implements [fosite.Hasher].
func (plain) Hash(_ context.Context, data []byte) ([]byte, error) { return bytes.Clone(data), nil }

// Interface guards
var (
	_ oauth2.CoreStrategy           = (*strategy)(nil)
	_ oauth2.TokenRevocationStorage = (*store)(nil)
	_ fosite.Hasher                 = plain{}
)
