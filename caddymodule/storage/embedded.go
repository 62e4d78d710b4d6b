package storage

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/argument"
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

	// The key, as a placeholder: the content of a key file, or 32 bytes in base64. A change
	// takes effect when the process restarts.
	Key string `json:"key,omitempty"`

	// The file of the key, which is created with a new store. Supports placeholders. Default:
	// `key.json` in the directory of the store.
	KeyFile string `json:"key_file,omitempty"`

	dir     string // absolute
	key     secret.String
	keyFile string
}

// CaddyModule returns the Caddy module information.
func (Embedded) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "token_broker.storage.embedded", New: func() caddy.Module { return new(Embedded) }}
}

// Provision resolves the settings without accessing the directory.
func (s *Embedded) Provision(ctx caddy.Context) error {
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
	return s.provisionKey(ctx)
}

func (s *Embedded) provisionKey(ctx caddy.Context) (err error) {
	if s.Key != "" && s.KeyFile != "" {
		return errors.New("key and key_file exclude each other")
	}
	if s.Key != "" {
		s.key, err = placeholder.Secret(ctx.Slogger(), "key", s.Key)
	}
	if s.KeyFile != "" {
		s.keyFile, err = placeholder.Resolve("key_file", s.KeyFile)
	}
	return err
}

// UnmarshalCaddyfile reads the storage. Syntax:
//
//	storage embedded [<dir>] {
//		key      <placeholder>
//		key_file <path>
//	}
func (s *Embedded) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // "embedded"
	if d.NextArg() {
		s.Dir = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch word := d.Val(); word {
		case "key":
			err = argument.String(d, &s.Key)
		case "key_file":
			err = argument.String(d, &s.KeyFile)
		default:
			err = d.Errf("unrecognized subdirective of storage embedded: %s", word)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// String implements [Storage].
func (s *Embedded) String() string { return "the embedded store in " + s.dir }

// StorageKey implements [Storage].
func (s *Embedded) StorageKey() string { return "embedded:" + s.dir }

// OpenStore implements [Storage].
func (s *Embedded) OpenStore(ctx context.Context, opts OpenOptions) (record.Store, error) {
	config := s.store()
	config.Existing, config.Logger = opts.Existing, opts.Logger
	store, err := boltstore.Open(ctx, config)
	if err != nil { // not a nil *boltstore.Store in the interface
		return nil, err
	}
	if opts.Serve {
		return serve(ctx, s.dir, store, opts.Logger), nil
	}
	return store, nil
}

func (s *Embedded) store() boltstore.Config {
	return boltstore.Config{Dir: s.dir, Key: s.key, KeyFile: s.keyFile}
}

// Check reads the whole store, which may be in use, and reports damage.
func (s *Embedded) Check(ctx context.Context) (*boltstore.Report, error) {
	return boltstore.Check(ctx, s.store())
}

// Rebuild saves what can be read of the store, which must not be in use, into a new database at
// path.
func (s *Embedded) Rebuild(ctx context.Context, path string) (*boltstore.Report, error) {
	return boltstore.Rebuild(ctx, s.store(), path)
}

// Rekey encrypts the store, which must not be in use, with the key of next, a storage of the same
// directory, and destroys the old key. It returns how many records there are.
func (s *Embedded) Rekey(ctx context.Context, next *Embedded) (int, error) {
	n, err := boltstore.Rekey(ctx, s.store(), next.store())
	switch {
	case errors.Is(err, boltstore.ErrDatabaseMissing):
		err = fmt.Errorf("there is no embedded store in %s: %w", s.dir, err)
	case err != nil:
		err = fmt.Errorf("%w; if the change has begun, run it again", err)
	}
	return n, err
}

// Interface guards
var (
	_ ServedStorage         = (*Embedded)(nil)
	_ caddy.Provisioner     = (*Embedded)(nil)
	_ caddyfile.Unmarshaler = (*Embedded)(nil)
)
