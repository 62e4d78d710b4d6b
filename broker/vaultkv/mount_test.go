package vaultkv_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/broker/vaultkv"
)

func TestNothingIsWrittenToAVersion1Engine(t *testing.T) {
	t.Parallel()
	client := vaulttest.Shared(t).Client()
	mount := prefix()
	if err := client.Sys().MountWithContext(t.Context(), mount, &api.MountInput{
		Type: "kv", Options: map[string]string{"version": "1"},
	}); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	store := newStore(t, vaultkv.Config{Mount: mount, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	_, saveErr := store.Save(t.Context(), newRecord("ann", 1), 0)
	_, _, loadErr := store.Load(t.Context(), key("ann"))
	for op, err := range map[string]error{
		"Save": saveErr, "Load": loadErr, "Delete": store.Delete(t.Context(), key("ann")),
		"DestroyEarlier": store.DestroyEarlier(t.Context(), key("ann"), 2), "Check": store.Check(t.Context()),
	} {
		if !errors.Is(err, record.ErrStoreUnavailable) || !strings.Contains(err.Error(), "version 1") {
			t.Errorf("%s = %v; want ErrStoreUnavailable that mentions version 1", op, err)
		}
	}
	if got, err := client.Logical().ListWithContext(t.Context(), mount); err != nil || got != nil {
		t.Errorf("the engine contains %v, %v; want nothing", got, err)
	}

	// Once the engine is version 2, the same store works.
	if err := client.Sys().TuneMountAllowNilWithContext(t.Context(), mount, api.TuneMountConfigInput{
		Options: &map[string]string{"version": "2"},
	}); err != nil {
		t.Fatal(err)
	}
	saveOnceUpgraded(t, store)
	wantGeneration(t, store, "ann", 1)
}

// saveOnceUpgraded saves a record as soon as the engine has upgraded itself.
func saveOnceUpgraded(t *testing.T, store record.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		_, err := store.Save(ctx, newRecord("ann", 1), 0)
		if err == nil {
			return
		}
		if !errors.Is(err, record.ErrStoreUnavailable) || !strings.Contains(err.Error(), "upgrading") {
			t.Fatalf("Save = %v", err)
		}
	}
}

func TestUnusableMountIsReported(t *testing.T) {
	t.Parallel()
	for mount, want := range map[string]string{
		"nowhere":       "if such a mount exists",
		"secret/team-a": "mounted at secret",
		"sys":           "type system",
	} {
		err := newStore(t, vaultkv.Config{Mount: mount}).Check(t.Context())
		if !errors.Is(err, record.ErrStoreUnavailable) || !strings.Contains(err.Error(), want) {
			t.Errorf("Check with mount %s = %v, want an error that says %q", mount, err, want)
		}
	}
}

func TestMountIsCheckedOnceForAll(t *testing.T) {
	t.Parallel()
	var checks atomic.Int64
	relay := newRelay(t)
	counting := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/sys/internal/ui/mounts/secret") {
			checks.Add(1)
		}
		relay.Config.Handler.ServeHTTP(w, r)
	})
	store := newStore(t, vaultkv.Config{Address: counting.URL})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, _, err := store.Load(t.Context(), key("ann")); !errors.Is(err, record.ErrNotFound) {
				t.Errorf("Load = %v, want ErrNotFound", err)
			}
		})
	}
	wg.Wait()
	if got := checks.Load(); got != 1 {
		t.Errorf("the mount was checked %d times, want once", got)
	}
}

func TestCheckOutlivesTheCallerThatStartedIt(t *testing.T) {
	t.Parallel()
	asked, proceed := make(chan struct{}), make(chan struct{})
	relay := newRelay(t)
	slow := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/sys/internal/") {
			close(asked) // panics if asked twice
			<-proceed
		}
		relay.Config.Handler.ServeHTTP(w, r)
	})
	store := newStore(t, vaultkv.Config{Address: slow.URL})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, _, err := store.Load(ctx, key("ann"))
		first <- err
	}()
	<-asked
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) || !errors.Is(err, record.ErrStoreUnavailable) {
		t.Errorf("Load of the cancelled caller = %v, want context.Canceled and ErrStoreUnavailable", err)
	}
	close(proceed)
	if _, _, err := store.Load(t.Context(), key("ann")); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("Load = %v, want ErrNotFound", err)
	}
}

func TestSealedVaultIsUnavailableUntilUnsealed(t *testing.T) {
	t.Parallel()
	server := vaulttest.Start(t)
	store := newStore(t, vaultkv.Config{Address: server.Addr, Token: tokenOf(server.Token)})
	rev := save(t, store, newRecord("ann", 1), 0)
	server.Seal(t)
	_, saveErr := store.Save(t.Context(), newRecord("ann", 2), rev)
	for op, err := range map[string]error{"Save": saveErr, "Check": store.Check(t.Context())} {
		if !errors.Is(err, record.ErrStoreUnavailable) || !strings.Contains(err.Error(), "sealed") {
			t.Errorf("%s = %v; want ErrStoreUnavailable that mentions the seal", op, err)
		}
	}
	server.Unseal(t)
	save(t, store, newRecord("ann", 3), rev)
}

func TestRejectedTokenIsAskedForAgain(t *testing.T) {
	t.Parallel()
	client := vaulttest.Shared(t).Client()
	var tokens [2]string
	for i := range tokens {
		login, err := client.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{Policies: []string{"root"}})
		if err != nil {
			t.Fatal(err)
		}
		tokens[i] = login.Auth.ClientToken
	}
	asked := 0
	store := newStore(t, vaultkv.Config{Token: func(context.Context) (secret.String, error) {
		asked++
		return secret.New(tokens[min(asked, len(tokens))-1] + "\n"), nil
	}})
	rev := save(t, store, newRecord("ann", 1), 0)
	if err := client.Auth().Token().RevokeTreeWithContext(t.Context(), tokens[0]); err != nil {
		t.Fatal(err)
	}
	save(t, store, newRecord("ann", 2), rev)
	wantGeneration(t, store, "ann", 2)
	if asked != 2 {
		t.Errorf("the token was asked for %d times, want 2", asked)
	}
}

func TestMissingOrUnusableTokenIsReported(t *testing.T) {
	t.Parallel()
	for name, source := range map[string]func(context.Context) (secret.String, error){
		"error":   func(context.Context) (secret.String, error) { return secret.String{}, errors.New("no file") },
		"garbage": tokenOf("canary\nx"),
		"wrong":   tokenOf("canary"),
		"none":    tokenOf(""),
	} {
		err := newStore(t, vaultkv.Config{Token: source}).Check(t.Context())
		if !errors.Is(err, record.ErrStoreUnavailable) || !strings.Contains(err.Error(), "token") || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: Check = %v, want ErrStoreUnavailable about the token", name, err)
		}
	}
}

func TestUnsetFieldsComeFromTheEnvironment(t *testing.T) {
	server := vaulttest.Shared(t)
	t.Setenv("VAULT_ADDR", server.Addr)
	t.Setenv("VAULT_TOKEN", server.Token)
	t.Setenv("VAULT_MAX_RETRIES", "5")
	t.Setenv("VAULT_WRAP_TTL", "5m")
	store, err := vaultkv.New(vaultkv.Config{Prefix: prefix()})
	if err != nil {
		t.Fatal(err)
	}
	save(t, store, newRecord("ann", 1), 0)
	wantGeneration(t, store, "ann", 1)
	if got := store.String(); !strings.Contains(got, server.Addr) || !strings.Contains(got, "secret/") {
		t.Errorf("String() = %q, want it to say where the store is", got)
	}
}

func TestNewRefusesInvalidAddressesAndPaths(t *testing.T) {
	t.Parallel()
	for _, config := range []vaultkv.Config{
		{Address: "vault.internal:8200"},
		{Address: "https://user:canary@vault.internal"},
		{Address: "://canary"},
		{Address: "https://vault.internal", Mount: ".."},
		{Address: "https://vault.internal", Prefix: "a b"},
	} {
		if _, err := vaultkv.New(config); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("New(%+v) = %v, want an error without secrets", config.Mount, err)
		}
	}
}
