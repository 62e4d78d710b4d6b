package storage

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/placeholder"
)

func init() {
	caddy.RegisterModule(Embedded{})
}

// Embedded stores connections in an encrypted file on this machine. Only one process at a
// time can open it.
type Embedded struct {
	// The directory of the store's files. Supports placeholders. Default: `token-broker`
	// in Caddy's data directory.
	Dir string `json:"dir,omitempty"`

	dir string // absolute
}

// CaddyModule returns the Caddy module information.
func (Embedded) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "token_broker.storage.embedded", New: func() caddy.Module { return new(Embedded) }}
}

// Provision resolves the directory without accessing it.
func (s *Embedded) Provision(caddy.Context) error {
	dir := filepath.Join(caddy.AppDataDir(), "token-broker")
	if s.Dir != "" {
		var err error
		if dir, err = placeholder.Resolve("dir", s.Dir); err != nil {
			return err
		}
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("dir: %w", err)
	}
	s.dir = abs
	return nil
}

// UnmarshalCaddyfile reads the storage. Syntax:
//
//	storage embedded [<dir>]
func (s *Embedded) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // "embedded"
	if d.NextArg() {
		s.Dir = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	if d.NextBlock(0) {
		return d.Errf("unrecognized subdirective of storage embedded: %s", d.Val())
	}
	return nil
}

// String implements [Storage].
func (s *Embedded) String() string { return "the embedded store in " + s.dir }

// StorageKey implements [Storage].
func (s *Embedded) StorageKey() string { return "embedded:" + s.dir }

// OpenStore implements [Storage].
func (s *Embedded) OpenStore(ctx context.Context, opts OpenOptions) (record.Store, error) {
	store, err := boltstore.Open(ctx, boltstore.Config{Dir: s.dir, Logger: opts.Logger})
	if err != nil { // not a nil *boltstore.Store in the interface
		return nil, err
	}
	return store, nil
}

// Check reads the whole store, which may be in use, and reports damage.
func (s *Embedded) Check(ctx context.Context) (*boltstore.Report, error) {
	return boltstore.Check(ctx, s.dir)
}

// Rebuild saves what can be read of the store, which must not be in use, into a new database at
// path.
func (s *Embedded) Rebuild(ctx context.Context, path string) (*boltstore.Report, error) {
	return boltstore.Rebuild(ctx, s.dir, path)
}

// Interface guards
var (
	_ Storage               = (*Embedded)(nil)
	_ caddy.Provisioner     = (*Embedded)(nil)
	_ caddyfile.Unmarshaler = (*Embedded)(nil)
)
