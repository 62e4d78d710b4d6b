package vaultkv_test

import (
	"fmt"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/vaultkv"
)

// refresh does what a refresh does to a store.
func refresh(t *testing.T, store *vaultkv.Store, generation uint64) record.Revision {
	t.Helper()
	_, rev, err := store.Load(t.Context(), key("ann"))
	if err != nil {
		t.Fatal(err)
	}
	leased := newRecord("ann", generation-1)
	leased.Lease = &record.Lease{ID: "a"}
	rev = save(t, store, newRecord("ann", generation), save(t, store, leased, rev))
	if !store.KeepsFew(key("ann"), rev) {
		if err := store.DestroyEarlier(t.Context(), key("ann"), rev); err != nil {
			t.Fatal(err)
		}
	}
	return rev
}

// readable returns the numbers of the versions of ann's record that can be read or undeleted.
func readable(t *testing.T, mount, prefix string) []int {
	t.Helper()
	versions, err := vaulttest.Shared(t).Client().KVv2(mount).GetVersionsAsList(t.Context(), prefix+"/connections/app/ann/crm.hubspot")
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int
	for _, v := range versions {
		if !v.Destroyed {
			numbers = append(numbers, v.Version)
		}
	}
	return numbers
}

func wantReadable(t *testing.T, mount, prefix string, latest record.Revision) {
	t.Helper()
	if got := readable(t, mount, prefix); len(got) != 1 || got[0] != int(latest) {
		t.Errorf("versions %v can be read, want only %d", got, latest)
	}
}

// newCountedStore returns a store whose requests pass through a relay.
func newCountedStore(t *testing.T, config vaultkv.Config) (*relay, *vaultkv.Store) {
	t.Helper()
	relay := newRelay(t)
	config.Address = relay.URL
	store := newStore(t, config)
	if err := store.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	return relay, store
}

// A refresh of a connection that the broker has imported costs three requests. Its replaced
// credentials are gone at once, and cannot be undeleted.
func TestRefreshCostsThreeRequests(t *testing.T) {
	t.Parallel()
	config := vaultkv.Config{Prefix: prefix()}
	relay, store := newCountedStore(t, config)
	save(t, store, newRecord("ann", 1), 0)
	if err := store.DestroyEarlier(t.Context(), key("ann"), 1); err != nil {
		t.Fatal(err)
	}
	wantReadable(t, "secret", config.Prefix, refresh(t, store, 2)) // sees that the mount obeys
	const refreshes = 30
	before := relay.requests.Load()
	for i := range refreshes {
		rev := refresh(t, store, uint64(i+3))
		wantReadable(t, "secret", config.Prefix, rev)
		kv := vaulttest.Shared(t).Client().KVv2("secret")
		path := config.Prefix + "/connections/app/ann/crm.hubspot"
		_ = kv.Undelete(t.Context(), path, []int{int(rev - 1), int(rev - 2)})
		if found, err := kv.GetVersion(t.Context(), path, int(rev-1)); err == nil && found.Data != nil {
			t.Errorf("version %d is back", rev-1)
		}
	}
	if got := relay.requests.Load() - before; got != 3*refreshes {
		t.Errorf("%d requests for %d refreshes, want 3 for each", got, refreshes)
	}
}

// An import that replaces another leaves nothing of it, and costs one request for that.
func TestReplacedImportIsDestroyedByOneRequest(t *testing.T) {
	t.Parallel()
	config := vaultkv.Config{Prefix: prefix()}
	relay, store := newCountedStore(t, config)
	var rev record.Revision
	for i, want := range []int64{0, 1, 1} {
		rev = save(t, store, newRecord("ann", uint64(i+1)), rev)
		before := relay.requests.Load()
		if err := store.DestroyEarlier(t.Context(), key("ann"), rev); err != nil {
			t.Fatal(err)
		}
		if got := relay.requests.Load() - before; got != want {
			t.Errorf("%d requests to destroy what was before version %d, want %d", got, rev, want)
		}
		wantReadable(t, "secret", config.Prefix, rev)
	}
	wantReadable(t, "secret", config.Prefix, refresh(t, store, 4))
}

// A record of an earlier version of this program has versions that no write would remove.
func TestEarlierVersionsAreDestroyedBeforeTheEngineRemovesThem(t *testing.T) {
	t.Parallel()
	config := vaultkv.Config{Prefix: prefix()}
	store := newStore(t, config)
	var rev record.Revision
	for range 6 {
		rev = save(t, store, newRecord("ann", 1), rev)
	}
	kv := vaulttest.Shared(t).Client().KVv2("secret")
	if err := kv.Destroy(t.Context(), config.Prefix+"/connections/app/ann/crm.hubspot", []int{3}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := store.DestroyEarlier(t.Context(), key("ann"), rev); err != nil {
			t.Fatal(err)
		}
		wantReadable(t, "secret", config.Prefix, rev)
		rev = save(t, store, newRecord("ann", 1), rev)
		wantReadable(t, "secret", config.Prefix, rev)
	}
}

// A secret that was deleted and created again has no max_versions.
func TestNewRecordIsLimitedAgain(t *testing.T) {
	t.Parallel()
	config := vaultkv.Config{Prefix: prefix()}
	store, other := newStore(t, config), newStore(t, config)
	for range 2 {
		save(t, store, newRecord("ann", 1), 0)
		if err := store.DestroyEarlier(t.Context(), key("ann"), 1); err != nil {
			t.Fatal(err)
		}
		for generation := range uint64(3) {
			wantReadable(t, "secret", config.Prefix, refresh(t, store, generation+2))
		}
		if err := other.Delete(t.Context(), key("ann")); err != nil {
			t.Fatal(err)
		}
	}
}

// Without max_versions, because of the policy or the mount, an import destroys at once, and
// refreshes do now and then.
func TestDestructionIsSpreadIfTheEngineKeepsEarlierVersions(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(t *testing.T, config *vaultkv.Config){
		"policy": func(t *testing.T, config *vaultkv.Config) {
			config.Token = tokenOf(login(t, config.Prefix, `["read", "list", "delete"]`))
		},
		"mount": func(t *testing.T, config *vaultkv.Config) {
			client := vaulttest.Shared(t).Client()
			config.Mount = config.Prefix
			if err := client.Sys().MountWithContext(t.Context(), config.Mount, &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}); err != nil {
				t.Fatal(err)
			}
			if _, err := client.Logical().WriteWithContext(t.Context(), config.Mount+"/config", map[string]any{"max_versions": 200}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := vaultkv.Config{Prefix: prefix(), Mount: "secret"}
			prepare(t, &config)
			relay, store := newCountedStore(t, config)
			rev := save(t, store, newRecord("ann", 1), 0)
			if err := store.DestroyEarlier(t.Context(), key("ann"), rev); err != nil {
				t.Fatal(err)
			}
			for generation := range uint64(3) { // until the store knows
				refresh(t, store, generation+2)
			}
			const refreshes = 40
			before := relay.requests.Load()
			most := 0
			for generation := range uint64(refreshes) {
				rev = refresh(t, store, generation+5)
				most = max(most, len(readable(t, config.Mount, config.Prefix)))
			}
			if got := relay.requests.Load() - before; got > 3*refreshes+refreshes/10 {
				t.Errorf("%d requests for %d refreshes, want 3 for each and one for ten", got, refreshes)
			}
			if most > 41 {
				t.Errorf("%d versions could be read", most)
			}
			rev = save(t, store, newRecord("ann", 100), rev) // an import
			if err := store.DestroyEarlier(t.Context(), key("ann"), rev); err != nil {
				t.Fatal(err)
			}
			wantReadable(t, config.Mount, config.Prefix, rev)
		})
	}
}

// login returns a token with the documented policy, but for the capabilities on metadata.
func login(t *testing.T, prefix, metadata string) string {
	t.Helper()
	client := vaulttest.Shared(t).Client()
	policy := fmt.Sprintf(`
		path "secret/data/%[1]s/connections/*"     { capabilities = ["create", "read", "update"] }
		path "secret/metadata/%[1]s/connections/*" { capabilities = %[2]s }
		path "secret/destroy/%[1]s/connections/*"  { capabilities = ["update"] }`, prefix, metadata)
	if err := client.Sys().PutPolicyWithContext(t.Context(), prefix, policy); err != nil {
		t.Fatal(err)
	}
	created, err := client.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{
		Policies: []string{prefix}, NoDefaultPolicy: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return created.Auth.ClientToken
}
