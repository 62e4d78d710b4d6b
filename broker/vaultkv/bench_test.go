package vaultkv_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/broker/vaultkv"
)

// The figures include those of the server, which does as little as possible.

func benchStore(b *testing.B, secretData string) *vaultkv.Store {
	read := fmt.Appendf(nil, `{"request_id":"4","lease_id":"","renewable":false,"lease_duration":0,"data":{"data":%s,`+
		`"metadata":{"created_time":"2026-01-02T03:04:05.000000006Z","custom_metadata":null,"deletion_time":"","destroyed":false,"version":1}},`+
		`"wrap_info":null,"warnings":null,"auth":null,"mount_type":"kv"}`, secretData)
	written := []byte(`{"request_id":"4","lease_id":"","renewable":false,"lease_duration":0,"data":{"created_time":"2026-01-02T03:04:05.000000006Z",` +
		`"custom_metadata":null,"deletion_time":"","destroyed":false,"version":1},"wrap_info":null,"warnings":null,"auth":null,"mount_type":"kv"}`)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v1/sys/internal/ui/mounts/secret":
			_, _ = io.WriteString(w, `{"data":{"type":"kv","path":"secret/","options":{"version":"2"}}}`)
		case r.Method == http.MethodGet:
			_, _ = w.Write(read)
		default:
			_, _ = w.Write(written)
		}
	}))
	b.Cleanup(server.Close)
	store, err := vaultkv.New(vaultkv.Config{Address: server.URL, Token: func(context.Context) (secret.String, error) { return secret.New("t"), nil }})
	if err != nil {
		b.Fatal(err)
	}
	return store
}

func BenchmarkSave(b *testing.B) {
	store := benchStore(b, "{}")
	rec := newRecord("ann", 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := store.Save(b.Context(), rec, 0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	encoded, err := record.Encode(newRecord("ann", 1))
	if err != nil {
		b.Fatal(err)
	}
	data, err := json.Marshal(map[string]string{"record": string(encoded), "write_id": "w"})
	if err != nil {
		b.Fatal(err)
	}
	store := benchStore(b, string(data))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := store.Load(b.Context(), key("ann")); err != nil {
			b.Fatal(err)
		}
	}
}
