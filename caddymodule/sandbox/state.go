package sandbox

import (
	"crypto/rand"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxWebhooks is how many webhooks are kept.
const maxWebhooks = 20

// state is the state of the provider.
type state struct {
	mu       sync.Mutex             // guards all fields
	refresh  map[string]*grant      // by refresh token, including spent ones
	access   map[string]accessToken // by token
	received []webhook              // the oldest first
}

// A grant is the authorization that a customer gave.
type grant struct {
	current string // the valid refresh token; empty if the grant is revoked
	issued  int    // number of access tokens issued
}

type accessToken struct {
	grant  *grant
	number int
	expiry time.Time
}

type webhook struct {
	ReceivedAt time.Time `json:"received_at"`
	Verified   bool      `json:"verified"`
	Body       string    `json:"body"`
}

func newState() *state {
	return &state{refresh: make(map[string]*grant), access: make(map[string]accessToken)}
}

// redeem spends a refresh token. Sending a spent one again revokes the grant, including its
// access tokens, as RFC 9700 section 4.14.2 recommends.
func (s *state) redeem(token string, expiry time.Time) (access, refresh string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.refresh[token]
	if g == nil {
		if !strings.HasPrefix(token, GrantPrefix) {
			return "", "", false
		}
		g = &grant{current: token}
		s.refresh[token] = g
	}
	if g.current != token {
		g.current = ""
		return "", "", false
	}
	g.issued++
	access, refresh = "sandbox-at-"+rand.Text(), GrantPrefix+rand.Text()
	g.current = refresh
	s.refresh[refresh] = g
	maps.DeleteFunc(s.access, func(_ string, t accessToken) bool { return t.expiry.Before(time.Now()) })
	s.access[access] = accessToken{grant: g, number: g.issued, expiry: expiry}
	return access, refresh, true
}

// number returns the number of the access token within its grant.
func (s *state) number(token string, now time.Time) (int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.access[token]
	return t.number, ok && t.grant.current != "" && now.Before(t.expiry)
}

func (s *state) receive(w webhook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.received = append(s.received, w)
	s.received = slices.Delete(s.received, 0, max(0, len(s.received)-maxWebhooks))
}

func (s *state) webhooks() []webhook {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]webhook{}, s.received...)
}
