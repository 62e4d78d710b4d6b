// Package vaultkv keeps connections in HashiCorp Vault, in a KV version 2 secrets
// engine: a [record.Store] that several processes can share. Records are compare-and-set by
// the engine's own versions.
//
// The token's policy, with the default mount and prefix:
//
//	path "secret/data/token-broker/connections/*"     { capabilities = ["create", "read", "update"] }
//	path "secret/metadata/token-broker/connections/*" { capabilities = ["read", "update", "list", "delete"] }
//	path "secret/destroy/token-broker/connections/*"  { capabilities = ["update"] }
//
// # Earlier versions
//
// Before a connection is first refreshed, max_versions of its secret is set to 1.
// From then on the engine itself removes the earlier version with each write. Where that is
// not possible, earlier versions are destroyed: at once after an import or an update, and once
// in [spread] refreshes. It is not possible if the policy does not allow update on
// the metadata, or if the mount is configured to keep more versions: of the two numbers the
// engine takes the larger one.
//
// # Requests
//
// Counted as HTTP requests to Vault, without those that are repeated because something went
// wrong: Load, Save and Delete are one each, List is one for each application and consumer
// that it visits. So a refresh is three: one Load and two Saves. The first of a connection is
// four. DestroyEarlier is one before that, up to three for the first time in a process, and none
// after that. Without max_versions it is two, and after refreshes that comes to one in ten refreshes.
//
// If an operator deletes or destroys the latest version by hand, the record no longer
// exists. A new one gets the next version number, so numbers do not repeat, unless the
// metadata was deleted.
package vaultkv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

const (
	defaultMount   = "secret"
	defaultPrefix  = "token-broker"
	defaultTimeout = 10 * time.Second

	// maxConns is how many connections to Vault are open, and kept open. It is more than the
	// broker makes requests at a time.
	maxConns = 80
)

// A Config says where the secrets engine is and how to log in. Unset fields come from the
// environment, as in every Vault client: VAULT_ADDR, VAULT_NAMESPACE, VAULT_TOKEN,
// VAULT_CACERT, VAULT_CLIENT_CERT and so on.
type Config struct {
	Address   string // URL, "https://vault.internal:8200"
	Namespace string // a namespace of Vault Enterprise
	Mount     string // path of the secrets engine. Default: secret
	Prefix    string // path below the mount that the broker has to itself. Default: token-broker

	// Token returns a token for Vault. It is called before the first request, and again
	// whenever Vault answers 403. Default: the value of VAULT_TOKEN at that time.
	Token func(ctx context.Context) (secret.String, error)

	// Timeout bounds each request to Vault. Default: 10s.
	Timeout time.Duration

	// Logger receives operational messages. If nil, they are discarded.
	Logger *slog.Logger
}

// A Store is a [record.Store] in Vault.
type Store struct {
	client    *api.Client // knows the address and the headers, and sends nothing
	transport http.RoundTripper
	mount     string
	prefix    string // ends in "/connections"
	tokens    tokens
	engine    engine
	single    single

	timeout time.Duration
	logger  *slog.Logger
}

// New returns the store that config describes. It makes no network call; see
// [Store.Check].
func New(config Config) (*Store, error) {
	client, transport, err := newClient(config)
	if err != nil {
		return nil, fmt.Errorf("configuring Vault: %w", err)
	}
	s := &Store{
		client: client, transport: transport, mount: defaultMount, prefix: defaultPrefix,
		tokens:  tokens{source: config.Token},
		timeout: defaultTimeout, logger: slog.New(slog.DiscardHandler),
	}
	if config.Mount != "" {
		s.mount = config.Mount
	}
	if config.Prefix != "" {
		s.prefix = config.Prefix
	}
	if s.mount, err = cleanPath(s.mount); err != nil {
		return nil, fmt.Errorf("configuring Vault: mount: %w", err)
	}
	if s.prefix, err = cleanPath(s.prefix); err != nil {
		return nil, fmt.Errorf("configuring Vault: prefix: %w", err)
	}
	s.prefix += "/connections"
	if config.Timeout > 0 {
		s.timeout = config.Timeout
	}
	if config.Logger != nil {
		s.logger = config.Logger
	}
	if s.tokens.source == nil {
		s.tokens.source = environmentToken
	}
	return s, nil
}

// encryptedProxy honours HTTPS_PROXY, as Vault's own clients do, but not HTTP_PROXY: a
// proxy for plain HTTP would see the token and every record.
func encryptedProxy(req *http.Request) (*url.URL, error) {
	if req.URL.Scheme != "https" {
		return nil, nil
	}
	return http.ProxyFromEnvironment(req)
}

// newClient returns a client and the transport that its requests are sent with.
func newClient(config Config) (*api.Client, http.RoundTripper, error) {
	c := api.DefaultConfig()
	if c.Error != nil {
		return nil, nil, c.Error
	}
	if config.Address != "" {
		c.Address, c.AgentAddress = config.Address, ""
	}
	if err := validateAddress(c.Address); err != nil {
		return nil, nil, err
	}
	if transport, ok := c.HttpClient.Transport.(*http.Transport); ok {
		transport.Proxy = encryptedProxy
		transport.MaxIdleConns, transport.MaxIdleConnsPerHost, transport.MaxConnsPerHost = maxConns, maxConns, maxConns
	}
	client, err := api.NewClient(c)
	if err != nil {
		return nil, nil, err
	}
	client.ClearToken()
	client.SetWrappingLookupFunc(func(string, string) string { return "" })
	if config.Namespace != "" {
		client.SetNamespace(config.Namespace)
	}
	return client, c.HttpClient.Transport, nil
}

func validateAddress(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "unix" || u.Host == "" && u.Path == "":
		return errors.New("the address is not a URL like https://vault.internal:8200")
	case u.User != nil:
		return errors.New("the address contains a user name or password: remove them, and set the token instead")
	}
	return nil
}

// Load implements [record.Store].
func (s *Store) Load(ctx context.Context, key record.Key) (*record.Record, record.Revision, error) {
	err := s.begin(ctx, key)
	var v version
	if err == nil {
		v, err = s.readVersion(ctx, key, 0)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("loading %s: %w", key, err)
	}
	if v.record == nil {
		return nil, 0, fmt.Errorf("%s: %w", key, record.ErrNotFound)
	}
	rec, err := record.Decode(key, v.record)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", record.ErrStoreUnavailable, err)
	}
	return rec, record.Revision(v.number), nil
}

// Delete implements [record.Store]. It removes the metadata and every version.
func (s *Store) Delete(ctx context.Context, key record.Key) error {
	err := s.begin(ctx, key)
	if err == nil {
		_, err = s.do(ctx, request{
			method: http.MethodDelete, engine: "metadata", path: connectionPath(key), capabilities: "delete",
		})
		s.single.remove(connectionPath(key))
	}
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("deleting %s: %w", key, err)
	}
	return nil
}

// begin precedes every operation on a record.
func (s *Store) begin(ctx context.Context, key record.Key) error {
	if key.Application == "" || key.Consumer == "" || key.Connector.UnifiedAPI == "" || key.Connector.ServiceID == "" {
		return fmt.Errorf("%w: a part of the key is empty, and Vault has no such path", record.ErrStoreUnavailable)
	}
	return s.ready(ctx)
}

// String says where the store is, for logs.
func (s *Store) String() string {
	return fmt.Sprintf("Vault at %s, KV version 2 at %s/, below %s/",
		s.client.Address(), s.mount, strings.TrimSuffix(s.prefix, "/connections"))
}

var (
	_ record.CheckedStore = (*Store)(nil)
	_ record.PruningStore = (*Store)(nil)
)
