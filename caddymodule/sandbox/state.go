package sandbox

import (
	"crypto/rand"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxWebhooks is how many webhooks are remembered.
const maxWebhooks = 20

// state is what the provider remembers.
type state struct {
	mu       sync.Mutex             // guards the fields below
	refresh  map[string]*grant      // refresh token, spent ones too :: its grant
	access   map[string]accessToken // by token
	received []webhook              // the latest last
}

// A grant is what a customer once agreed to.
type grant struct {
	current string // the refresh token that works; empty: the grant is revoked
	issued  int    // access tokens so far
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

// redeem spends a refresh token. One that was spent before revokes its grant, access
// tokens and all, as RFC 9700 section 4.14.2 advises.
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

// number returns which of its grant's access tokens the token is.
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
