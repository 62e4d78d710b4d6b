package storage

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/broker/vaultkv"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/argument"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/placeholder"
)

func init() {
	caddy.RegisterModule(Vault{})
}

// Vault stores connections in a KV version 2 secrets engine of HashiCorp Vault. Any
// number of processes can share it.
type Vault struct {
	// Vault's address, an https URL. Default: the environment variable VAULT_ADDR.
	Address string `json:"address,omitempty"`

	// The namespace. Default: the environment variable VAULT_NAMESPACE, or none.
	Namespace string `json:"namespace,omitempty"`

	// The mount path of the KV version 2 engine. Default: `secret`.
	Mount string `json:"mount,omitempty"`

	// The path below the mount under which connections are stored. Default: `token-broker`.
	Prefix string `json:"prefix,omitempty"`

	// How to log in.
	Auth *VaultAuth `json:"auth,omitempty"`

	address, namespace, mount, prefix string // resolved
}

// VaultAuth is how the broker logs in to Vault.
type VaultAuth struct {
	// A token, as a placeholder. It is resolved each time the token is used, so a file
	// that an agent renews works. Default: `{env.VAULT_TOKEN}`.
	Token string `json:"token,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Vault) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "token_broker.storage.vault", New: func() caddy.Module { return new(Vault) }}
}

// Provision resolves the settings without contacting Vault.
func (s *Vault) Provision(ctx caddy.Context) error {
	if s.Auth == nil {
		s.Auth = &VaultAuth{}
	}
	s.Auth.Token = cmp.Or(s.Auth.Token, "{env.VAULT_TOKEN}")
	for _, f := range []struct {
		name, value string
		to          *string
	}{
		{"address", cmp.Or(s.Address, "{env.VAULT_ADDR}"), &s.address},
		{"namespace", cmp.Or(s.Namespace, os.Getenv("VAULT_NAMESPACE")), &s.namespace},
		{"mount", cmp.Or(s.Mount, "secret"), &s.mount},
		{"prefix", cmp.Or(s.Prefix, "token-broker"), &s.prefix},
	} {
		if f.value == "" {
			continue
		}
		value, err := placeholder.Resolve(f.name, f.value)
		if err != nil {
			return err
		}
		*f.to = strings.Trim(value, "/")
	}
	if u, err := url.Parse(s.address); err != nil || u.Host == "" || u.User != nil || (u.Scheme != "https" && u.Scheme != "http") {
		return fmt.Errorf("address must be a URL such as https://vault.internal:8200")
	}
	_, err := placeholder.Secret(ctx.Slogger(), "auth: token", s.Auth.Token)
	return err
}

// UnmarshalCaddyfile reads the storage. Syntax:
//
//	storage vault {
//		address   <url>
//		namespace <name>
//		mount     <path>
//		prefix    <path>
//		auth token <placeholder>
//	}
func (s *Vault) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // "vault"
	if d.NextArg() {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch word := d.Val(); word {
		case "address":
			err = argument.String(d, &s.Address)
		case "namespace":
			err = argument.String(d, &s.Namespace)
		case "mount":
			err = argument.String(d, &s.Mount)
		case "prefix":
			err = argument.String(d, &s.Prefix)
		case "auth":
			err = s.unmarshalAuth(d)
		default:
			err = d.Errf("unrecognized subdirective of storage vault: %s", word)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Vault) unmarshalAuth(d *caddyfile.Dispenser) error {
	if s.Auth != nil {
		return d.Err("auth is already set")
	}
	if !d.NextArg() {
		return d.ArgErr()
	}
	if d.Val() != "token" {
		return d.Errf("unrecognized Vault auth method: %s; the only one is token", d.Val())
	}
	s.Auth = &VaultAuth{}
	return argument.String(d, &s.Auth.Token)
}

// String implements [Storage].
func (s *Vault) String() string {
	where := fmt.Sprintf("Vault at %s, mount %s, prefix %s", s.address, s.mount, s.prefix)
	if s.namespace != "" {
		where += ", namespace " + s.namespace
	}
	return where
}

// StorageKey implements [Storage].
func (s *Vault) StorageKey() string {
	return fmt.Sprintf("vault:%q %q %q %q", s.address, s.namespace, s.mount, s.prefix)
}

// OpenStore implements [Storage].
func (s *Vault) OpenStore(_ context.Context, opts OpenOptions) (record.Store, error) {
	store, err := vaultkv.New(vaultkv.Config{
		Address: s.address, Namespace: s.namespace, Mount: s.mount, Prefix: s.prefix,
		Logger: opts.Logger,
		Token: func(context.Context) (secret.String, error) {
			latest, ok := opts.Latest().(*Vault)
			if !ok { // cannot happen: the StorageKey is the same
				return secret.String{}, fmt.Errorf("storage: %T is not the Vault storage", opts.Latest())
			}
			token, err := placeholder.Resolve("storage vault: auth: token", latest.Auth.Token)
			return secret.New(token), err
		},
	})
	if err != nil { // not a nil *vaultkv.Store in the interface
		return nil, err
	}
	return store, nil
}

// Interface guards
var (
	_ Storage               = (*Vault)(nil)
	_ caddy.Provisioner     = (*Vault)(nil)
	_ caddyfile.Unmarshaler = (*Vault)(nil)
)
