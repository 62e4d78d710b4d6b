package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// The application of the benchmark, its key, and its connector.
const (
	application = "bench-app"
	apiKey      = "bench-key"
	serviceName = "crm/bench"
)

// consumerID returns the consumer of the i-th connection.
func consumerID(i int) string { return fmt.Sprintf("customer-%06d", i) }

// accessToken returns the access token of the i-th connection, of a realistic length.
func accessToken(i int) string { return fmt.Sprintf("access-token-%051d", i) }

func newRecord(i int) *record.Record {
	id, err := connector.ParseID(serviceName)
	if err != nil {
		panic(err)
	}
	now := time.Now()
	return &record.Record{
		Key:       record.Key{Application: application, Consumer: consumerID(i), Connector: id},
		CreatedAt: now, UpdatedAt: now, Enabled: true, Generation: 1,
		Settings: map[string]any{"region": "eu"},
		Metadata: map[string]any{"account": fmt.Sprintf("account-%d", i)},
		Credentials: &record.Credentials{
			AccessToken:  secret.New(accessToken(i)),
			RefreshToken: secret.New(fmt.Sprintf("refresh-token-%050d", i)),
			IssuedAt:     now, Expiry: now.Add(24 * time.Hour), FromImport: true,
		},
	}
}

// fill creates a store with a number of connections, through the broker's own package.
func fill(ctx context.Context, dir string, connections int) (err error) {
	store, err := boltstore.Open(ctx, boltstore.Config{Dir: filepath.Join(dir, "store")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	for i := range connections {
		if _, err := store.Save(ctx, newRecord(i), 0); err != nil {
			return err
		}
	}
	return nil
}
