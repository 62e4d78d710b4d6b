package vaultkv_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/broker/vaultkv"
)

func TestMain(m *testing.M) { os.Exit(vaulttest.Main(m)) }

func TestStoreKeepsTheContract(t *testing.T) {
	t.Parallel()
	brokertest.TestStore(t, func(t *testing.T) record.Store { return newStore(t, vaultkv.Config{}) })
}

func TestRecordDeletedByHandIsGoneAndCanBeCreatedAgain(t *testing.T) {
	t.Parallel()
	kv := vaulttest.Shared(t).Client().KVv2("secret")
	for name, remove := range map[string]func(path string, version int) error{
		"deleted":   func(path string, _ int) error { return kv.Delete(t.Context(), path) },
		"destroyed": func(path string, version int) error { return kv.Destroy(t.Context(), path, []int{version}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := vaultkv.Config{Prefix: prefix()}
			store := newStore(t, config)
			rev := save(t, store, newRecord("ann", 2), save(t, store, newRecord("ann", 1), 0))
			if err := remove(config.Prefix+"/connections/app/ann/crm.hubspot", int(rev)); err != nil {
				t.Fatal(err)
			}
			if rec, rev, err := store.Load(t.Context(), key("ann")); !errors.Is(err, record.ErrNotFound) {
				t.Errorf("Load = %v, %d, %v; want ErrNotFound", rec, rev, err)
			}
			if got := save(t, store, newRecord("ann", 3), 0); got != rev+1 {
				t.Errorf("revision of the new record = %d, want %d", got, rev+1)
			}
			wantGeneration(t, store, "ann", 3)
			if _, err := store.Save(t.Context(), newRecord("ann", 4), 0); !errors.Is(err, record.ErrConflict) {
				t.Errorf("Save = %v, want ErrConflict", err)
			}
		})
	}
}

func TestDestroyEarlierLeavesNothingToUndelete(t *testing.T) {
	t.Parallel()
	kv := vaulttest.Shared(t).Client().KVv2("secret")
	config := vaultkv.Config{Prefix: prefix()}
	store := newStore(t, config)
	path := config.Prefix + "/connections/app/ann/crm.hubspot"
	var rev record.Revision
	for range 4 {
		rev = save(t, store, newRecord("ann", 1), rev)
	}
	if err := kv.DeleteVersions(t.Context(), path, []int{2}); err != nil {
		t.Fatal(err)
	}
	if err := store.DestroyEarlier(t.Context(), key("ann"), rev-1); err != nil {
		t.Fatal(err)
	}
	versions, err := kv.GetVersionsAsList(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range versions {
		if want := v.Version < int(rev)-1; v.Destroyed != want {
			t.Errorf("version %d destroyed: %t, want %t", v.Version, v.Destroyed, want)
		}
	}
}

func TestDeleteLeavesNoMetadata(t *testing.T) {
	t.Parallel()
	config := vaultkv.Config{Prefix: prefix()}
	store := newStore(t, config)
	save(t, store, newRecord("ann", 1), 0)
	if err := store.Delete(t.Context(), key("ann")); err != nil {
		t.Fatal(err)
	}
	_, err := vaulttest.Shared(t).Client().KVv2("secret").GetMetadata(t.Context(), config.Prefix+"/connections/app/ann/crm.hubspot")
	if !errors.Is(err, api.ErrSecretNotFound) {
		t.Errorf("GetMetadata = %v, want ErrSecretNotFound", err)
	}
}

func TestForeignSecretsAreLeftAlone(t *testing.T) {
	t.Parallel()
	config := vaultkv.Config{Prefix: prefix()}
	store := newStore(t, config)
	save(t, store, newRecord("ann", 1), 0)
	kv := vaulttest.Shared(t).Client().KVv2("secret")
	for _, path := range []string{"note", "app/note", "app/ann/note", "app/bob/crm.hubspot/deeper/" + strings.Repeat("d/", 40) + "x"} {
		if _, err := kv.Put(t.Context(), config.Prefix+"/connections/"+path, map[string]any{"a": "b"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kv.Put(t.Context(), config.Prefix+"/connections/app/cyd/crm.hubspot", map[string]any{"a": "b"}); err != nil {
		t.Fatal(err)
	}
	got := 0
	for k, err := range store.List(t.Context(), "", "") {
		if err != nil || k != key("ann") && k != key("cyd") {
			t.Errorf("List yields %v, %v", k, err)
		}
		got++
	}
	if got != 2 {
		t.Errorf("List yields %d keys, want 2", got)
	}
	if _, _, err := store.Load(t.Context(), key("cyd")); !errors.Is(err, record.ErrStoreUnavailable) {
		t.Errorf("Load of a foreign secret = %v, want ErrStoreUnavailable", err)
	}
}

func TestDocumentedPolicyIsEnough(t *testing.T) {
	t.Parallel()
	for name, metadata := range map[string]string{
		"as documented":     `["read", "update", "list", "delete"]`,
		"of older versions": `["read", "list", "delete"]`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			prefix := prefix()
			store := newStore(t, vaultkv.Config{Prefix: prefix, Token: tokenOf(login(t, prefix, metadata))})
			wantPolicyEnough(t, store)
			save(t, store, newRecord("ann", 1), 0)
			if err := store.DestroyEarlier(t.Context(), key("ann"), 1); err != nil {
				t.Errorf("DestroyEarlier: %v", err)
			}
			for generation := range uint64(3) {
				refresh(t, store, generation+2)
			}
			if got, want := store.KeepsFew(key("ann"), 40), name == "as documented"; got != want {
				t.Errorf("KeepsFew = %t, want %t", got, want)
			}
		})
	}
}

// wantPolicyEnough does everything that a broker does with a store.
func wantPolicyEnough(t *testing.T, store *vaultkv.Store) {
	t.Helper()
	rev := save(t, store, newRecord("ann", 1), 0)
	if err := store.DestroyEarlier(t.Context(), key("ann"), rev); err != nil {
		t.Errorf("DestroyEarlier: %v", err)
	}
	rev = save(t, store, newRecord("ann", 2), rev)
	if err := store.DestroyEarlier(t.Context(), key("ann"), rev); err != nil {
		t.Errorf("DestroyEarlier: %v", err)
	}
	wantGeneration(t, store, "ann", 2)
	for _, consumer := range []string{"", "ann"} {
		for _, err := range store.List(t.Context(), "app", consumer) {
			if err != nil {
				t.Errorf("List: %v", err)
			}
		}
	}
	for _, err := range store.List(t.Context(), "", "") {
		if err != nil {
			t.Errorf("List: %v", err)
		}
	}
	if err := store.Delete(t.Context(), key("ann")); err != nil {
		t.Errorf("Delete: %v", err)
	}
}

func TestTooLargeRecordIsReported(t *testing.T) {
	t.Parallel()
	store := newStore(t, vaultkv.Config{})
	rec := newRecord("ann", 1)
	rec.Metadata = map[string]any{"a": strings.Repeat("x", 2<<20)}
	_, err := store.Save(t.Context(), rec, 0)
	if !errors.Is(err, record.ErrRecordTooLarge) || errors.Is(err, record.ErrStoreUnavailable) {
		t.Errorf("Save = %v, want ErrRecordTooLarge and not ErrStoreUnavailable", err)
	}
}

// newStore returns a store on the shared server. Unset fields of config get defaults.
func newStore(t *testing.T, config vaultkv.Config) *vaultkv.Store {
	t.Helper()
	server := vaulttest.Shared(t)
	if config.Address == "" {
		config.Address = server.Addr
	}
	if config.Prefix == "" {
		config.Prefix = prefix()
	}
	if config.Token == nil {
		config.Token = tokenOf(server.Token)
	}
	store, err := vaultkv.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func prefix() string { return "test-" + strings.ToLower(rand.Text()) }

func tokenOf(token string) func(context.Context) (secret.String, error) {
	return func(context.Context) (secret.String, error) { return secret.New(token), nil }
}

func save(t *testing.T, store record.Store, rec *record.Record, rev record.Revision) record.Revision {
	t.Helper()
	saved, err := store.Save(t.Context(), rec, rev)
	if err != nil {
		t.Fatalf("Save: %v", err)
	}
	return saved
}

func wantGeneration(t *testing.T, store record.Store, consumer string, want uint64) {
	t.Helper()
	rec, _, err := store.Load(t.Context(), key(consumer))
	if err != nil || rec.Generation != want {
		t.Errorf("Load = %v, %v; want generation %d", rec, err, want)
	}
}

func key(consumer string) record.Key {
	return record.Key{
		Application: "app", Consumer: consumer,
		Connector: connector.ID{UnifiedAPI: "crm", ServiceID: "hubspot"},
	}
}

func newRecord(consumer string, generation uint64) *record.Record {
	return &record.Record{
		Key: key(consumer), Generation: generation,
		Credentials: &record.Credentials{RefreshToken: secret.New("canary-secret")},
	}
}

// serve starts an HTTP server that ends with the test.
func serve(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}
