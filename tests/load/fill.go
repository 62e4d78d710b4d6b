package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/broker/vaultkv"
	"github.com/tokenbroker/caddy-token-broker/tests/tokenpair"
)

// The application of all connections, its key, and their connector.
const (
	application = "load-app"
	apiKey      = "load-key"
	serviceName = "crm/load"
)

// consumerID returns the consumer of a connection.
func consumerID(connection int) string { return fmt.Sprintf("customer-%07d", connection) }

// inParallel calls f for the numbers below count, parallel of them at a time, until the first
// error.
func inParallel(ctx context.Context, parallel, count int, f func(ctx context.Context, i int) error) error {
	work, running := errgroup.WithContext(ctx)
	work.SetLimit(parallel)
	for i := 0; i < count && running.Err() == nil; i++ {
		work.Go(func() error { return f(running, i) })
	}
	if err := work.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// newRecord returns the record of a connection whose token 0 expires at expiry.
func newRecord(connection int, issuedAt, expiry time.Time) *record.Record {
	r := emptyRecord(consumerID(connection), serviceName)
	r.Settings = map[string]any{"region": "eu"}
	r.Credentials = &record.Credentials{
		AccessToken:  secret.New(tokenpair.Pair{Connection: connection}.Access()),
		RefreshToken: secret.New(tokenpair.Pair{Connection: connection}.Refresh()),
		IssuedAt:     issuedAt, Expiry: expiry, FromImport: true,
	}
	return r
}

func emptyRecord(consumer, service string) *record.Record {
	id, err := connector.ParseID(service)
	if err != nil {
		panic(err)
	}
	now := time.Now()
	return &record.Record{
		Key:       record.Key{Application: application, Consumer: consumer, Connector: id},
		CreatedAt: now, UpdatedAt: now, Enabled: true, Generation: 1,
		Metadata: map[string]any{"account": consumer},
	}
}

// A storage is a store that the broker can be configured with.
type storage struct {
	name     string
	config   string // lines of the Caddyfile
	open     func(ctx context.Context) (record.Store, func() error, error)
	parallel int // records saved at a time
}

func embedded(dir string) storage {
	path := filepath.Join(dir, "store")
	return storage{
		name: "embedded", config: "storage embedded " + path, parallel: 1,
		open: func(ctx context.Context) (record.Store, func() error, error) {
			store, err := boltstore.Open(ctx, boltstore.Config{Dir: path})
			if err != nil {
				return nil, nil, err
			}
			return store, store.Close, nil
		},
	}
}

// inVault returns the storage in a Vault at address. The broker reaches it at seenAt, which may
// be a proxy.
func inVault(dir, address, seenAt, token string) (storage, error) {
	path := filepath.Join(dir, "vault-token")
	if err := writeFile(path, token+"\n"); err != nil {
		return storage{}, err
	}
	return storage{
		name: "vault", parallel: 16,
		config: fmt.Sprintf("storage vault {\n address %s\n auth token {file.%s}\n}", seenAt, path),
		open: func(context.Context) (record.Store, func() error, error) {
			store, err := vaultkv.New(vaultkv.Config{
				Address: address, Timeout: time.Minute,
				Token: func(context.Context) (secret.String, error) { return secret.New(token), nil },
			})
			return store, func() error { return nil }, err
		},
	}, nil
}

// fill saves the records of the numbers below count in the store, past the broker.
func (s *storage) fill(ctx context.Context, count int, newRecord func(i int) *record.Record) (err error) {
	store, closeStore, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeStore()) }()
	return inParallel(ctx, s.parallel, count, func(ctx context.Context, i int) error {
		_, err := store.Save(ctx, newRecord(i), 0)
		return err
	})
}

// names lists all connections in the store, and returns their number.
func (s *storage) names(ctx context.Context) (count int, err error) {
	store, closeStore, err := s.open(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, closeStore()) }()
	for _, err := range store.List(ctx, "", "") {
		if err != nil {
			return 0, err
		}
		count++
	}
	return count, nil
}
