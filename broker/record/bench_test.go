package record_test

import (
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// What each request to a store, and each response of the API, asks of a record.

func benchRecord() *record.Record {
	return &record.Record{
		Key: acme, CreatedAt: now, UpdatedAt: now, Enabled: true, Generation: 1,
		Settings: map[string]any{"region": "eu"},
		Metadata: map[string]any{"account": "account-42"},
		Credentials: &record.Credentials{
			AccessToken:  secret.New("access-token-000000000000000000000000000000000000000000000000042"),
			RefreshToken: secret.New("refresh-token-00000000000000000000000000000000000000000000000042"),
			IssuedAt:     now, Expiry: now.Add(time.Hour), Lifetime: time.Hour, FromImport: true,
		},
	}
}

func BenchmarkEncode(b *testing.B) {
	rec := benchRecord()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := record.Encode(rec); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	encoded, err := record.Encode(benchRecord())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := record.Decode(acme, encoded); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkView(b *testing.B) {
	rec := benchRecord()
	def := (&connector.Definition{
		ID: acme.Connector, AuthType: connector.OAuth2, BaseURL: "https://api.acme.test",
		TokenURL: "https://auth.acme.test/token", AuthStyle: connector.AuthHeader,
	}).WithDefaults()
	b.ReportAllocs()
	for b.Loop() {
		_ = rec.View(&def, rec.UpdatedAt)
	}
}
