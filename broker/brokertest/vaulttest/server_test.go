package vaulttest_test

import (
	"os"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
)

func TestMain(m *testing.M) { os.Exit(vaulttest.Main(m)) }

func TestDataSurvivesARestart(t *testing.T) {
	t.Parallel()
	server := vaulttest.Start(t, vaulttest.WithStorage(vaulttest.Raft))
	kv := server.Client().KVv2("secret")
	if _, err := kv.Put(t.Context(), "a", map[string]any{"b": "c"}); err != nil {
		t.Fatal(err)
	}
	server.Kill(t)
	server.Restart(t)
	got, err := kv.Get(t.Context(), "a")
	if err != nil || got.Data["b"] != "c" {
		t.Errorf("Get = %v, %v; want the data that was put", got, err)
	}
}

func TestSealedServerCanBeUnsealed(t *testing.T) {
	t.Parallel()
	server := vaulttest.Start(t)
	server.Seal(t)
	if _, err := server.Client().KVv2("secret").Put(t.Context(), "a", nil); err == nil {
		t.Error("a sealed server stored a secret")
	}
	server.Unseal(t)
	if _, err := server.Client().KVv2("secret").Put(t.Context(), "a", nil); err != nil {
		t.Error(err)
	}
}

func TestSharedReturnsOneServer(t *testing.T) {
	t.Parallel()
	if first, second := vaulttest.Shared(t), vaulttest.Shared(t); first != second {
		t.Error("Shared returned two servers")
	}
}
