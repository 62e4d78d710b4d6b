// Package oauthserver is a third-party service for tests: an OAuth 2.0 authorization server with
// refresh token rotation and reuse detection, based on ory/fosite, and an API that accepts its
// access tokens. It records every request.
package oauthserver

import (
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/oauth2"
)

// ClientID is the OAuth client that all grants are for.
const ClientID = "acme-client"

// DefaultLifetime is how long access tokens are valid unless [Config] says otherwise.
const DefaultLifetime = time.Hour

// Config configures a server. The zero value is valid.
type Config struct {
	ClientSecret string        // default: "acme-secret"
	Lifetime     time.Duration // of access tokens; default: DefaultLifetime
	// NoRotation keeps refresh tokens valid when they are redeemed. Otherwise each works once,
	// and sending it again revokes its grant (RFC 9700 section 4.14.2).
	NoRotation bool
	Passwords  map[string]string // for the password grant, by user name
	// Prefixes of tokens, by which tests find leaked ones.
	AccessPrefix, RefreshPrefix string
}

// A Server is a running authorization server and its API, on two hosts.
type Server struct {
	TokenURL      string // of the token endpoint
	RevocationURL string // of the revocation endpoint
	APIURL        string // of the API, without a path

	config   Config
	provider fosite.OAuth2Provider
	strategy *strategy
	store    *store
	client   fosite.Client

	redeeming sync.Mutex // held while a token request is carried out, as a transaction would

	mu        sync.Mutex            // guards the fields below
	tokenHook Hook                  // may be nil
	apiHook   Hook                  // may be nil
	access    map[string]Generation // by access token
	refresh   map[string]Generation // by refresh token
	issued    map[string]int        // number of access tokens issued, by grant id
	grants    map[string][]string   // ids of grants, by customer
	requests  []*TokenRequest       // in the order of arrival
	calls     []*Call               // in the order of arrival
	spent     map[string]bool       // signatures of refresh tokens that were replaced
	reuses    int                   // how often a spent refresh token was sent
	revoked   []Generation          // tokens sent to the revocation endpoint
}

// A Generation identifies a token of a customer's grant.
type Generation struct {
	Customer string // empty with client credentials
	Number   int    // 0: from the login; n: from the nth refresh
}

// Start starts a server that runs until the test ends.
func Start(t testing.TB, config Config) *Server {
	t.Helper()
	if config.ClientSecret == "" {
		config.ClientSecret = "acme-secret"
	}
	if config.Lifetime == 0 {
		config.Lifetime = DefaultLifetime
	}
	s := &Server{
		config: config,
		access: make(map[string]Generation), refresh: make(map[string]Generation),
		spent: make(map[string]bool), issued: make(map[string]int), grants: make(map[string][]string),
		client: &fosite.DefaultClient{
			ID: ClientID, Secret: []byte(config.ClientSecret),
			GrantTypes: []string{"authorization_code", "refresh_token", "client_credentials", "password"},
		},
	}
	s.provider = s.compose()
	token := httptest.NewServer(http.HandlerFunc(s.serveOAuth))
	t.Cleanup(token.Close)
	api := httptest.NewServer(http.HandlerFunc(s.serveAPI))
	t.Cleanup(api.Close)
	s.TokenURL, s.RevocationURL, s.APIURL = token.URL+"/oauth/token", token.URL+revocationPath, api.URL
	return s
}

func (s *Server) compose() fosite.OAuth2Provider {
	config := &fosite.Config{
		AccessTokenLifespan: s.config.Lifetime,
		RefreshTokenScopes:  []string{}, // all grants get a refresh token
		GlobalSecret:        []byte(rand.Text() + rand.Text()),
		ClientSecretsHasher: plain{},
		// Set here because fosite would set them at first use, without a lock.
		ScopeStrategy:            fosite.WildcardScopeStrategy,
		AudienceMatchingStrategy: fosite.DefaultAudienceMatchingStrategy,
	}
	s.store = newStore(s)
	s.strategy = &strategy{CoreStrategy: compose.NewOAuth2HMACStrategy(config), server: s}
	return compose.Compose(config, s.store, s.strategy,
		compose.OAuth2RefreshTokenGrantFactory,
		compose.OAuth2ClientCredentialsGrantFactory,
		passwordGrant,
		compose.OAuth2TokenIntrospectionFactory,
		compose.OAuth2TokenRevocationFactory,
	)
}

// passwordGrant adds the password grant, which some services still require. RFC 9700 section
// 2.4 and fosite discourage it.
func passwordGrant(config fosite.Configurator, storage, strategy any) any {
	return &oauth2.ResourceOwnerPasswordCredentialsGrantHandler{ //nolint:staticcheck // deprecated to discourage its use; there is no replacement
		ResourceOwnerPasswordCredentialsGrantStorage: storage.(oauth2.ResourceOwnerPasswordCredentialsGrantStorage),
		HandleHelper: &oauth2.HandleHelper{
			AccessTokenStrategy: strategy.(oauth2.AccessTokenStrategy),
			AccessTokenStorage:  storage.(oauth2.AccessTokenStorage),
			Config:              config,
		},
		RefreshTokenStrategy: strategy.(oauth2.RefreshTokenStrategy),
		Config:               config,
	}
}

// Tokens are the tokens from a customer's login.
type Tokens struct {
	AccessToken, RefreshToken string
	IssuedAt                  time.Time // whole seconds
	Lifetime                  time.Duration
}

// Login returns the tokens of a new grant. ago is how long ago the customer logged in.
func (s *Server) Login(t testing.TB, customer string, ago time.Duration) Tokens {
	t.Helper()
	ctx := t.Context()
	issuedAt := time.Now().UTC().Truncate(time.Second).Add(-ago)
	session := &fosite.DefaultSession{Subject: customer}
	session.SetExpiresAt(fosite.AccessToken, issuedAt.Add(s.config.Lifetime))
	grant := fosite.NewRequest()
	grant.RequestedAt, grant.Client, grant.Session = issuedAt, s.client, session

	access, accessSignature, err := s.strategy.GenerateAccessToken(ctx, grant)
	if err != nil {
		t.Fatal(err)
	}
	refresh, refreshSignature, err := s.strategy.GenerateRefreshToken(ctx, grant)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.store.CreateAccessTokenSession(ctx, accessSignature, grant); err != nil {
		t.Fatal(err)
	}
	if err := s.store.CreateRefreshTokenSession(ctx, refreshSignature, accessSignature, grant); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grants[customer] = append(s.grants[customer], grant.GetID())
	return Tokens{AccessToken: access, RefreshToken: refresh, IssuedAt: issuedAt, Lifetime: s.config.Lifetime}
}

// Revoke revokes all grants of a customer.
func (s *Server) Revoke(t testing.TB, customer string) {
	t.Helper()
	s.mu.Lock()
	grants := s.grants[customer]
	s.mu.Unlock()
	if len(grants) == 0 {
		t.Fatalf("the customer %q has no grant", customer)
	}
	for _, id := range grants {
		if err := s.store.RevokeRefreshToken(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if err := s.store.RevokeAccessToken(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
}

// Reuses returns how often a spent refresh token was sent.
func (s *Server) Reuses() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reuses
}
