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

// The names that everything goes by.
const (
	application = "bench-app"
	apiKey      = "bench-key"
	serviceName = "crm/bench"
)

// consumerID is the customer of the i-th connection, and accessToken the token that
// downstream must see for it.
func consumerID(i int) string { return fmt.Sprintf("customer-%06d", i) }

// accessToken is as long as those that services hand out.
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

// fill makes a store of so many connections, by way of the package that the broker
// itself stores them with.
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
