package main

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHopDoesTheLeastThatABrokerMust(t *testing.T) {
	t.Parallel()
	vault := &fakeVault{version: make(map[string]int)}
	server := httptest.NewServer(vault)
	t.Cleanup(server.Close)
	third, err := startThirdParty()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = third.close() })
	address := "http://" + third.address
	h := httptest.NewServer(newHop(&rawVault{
		address: server.URL, prefix: hopPrefix, endpoint: address + "/token", client: newClient(), data: json.RawMessage(`{"record":"r"}`),
	}).handler(address))
	t.Cleanup(h.Close)
	b := &storeBroker{client: newClient(), third: third}
	if b.ports.API, err = portOf(strings.TrimPrefix(h.URL, "http://")); err != nil {
		t.Fatal(err)
	}
	b.ports.Call = b.ports.API

	path := "/v1/secret/data/" + hopPrefix + "/" + application + "/" + consumerID(7) + "/crm.bench"
	for i, step := range []struct {
		do      func() error
		version int
	}{
		{func() error { return b.importTokens(t.Context(), 7) }, 1},
		{func() error { return b.importTokens(t.Context(), 7) }, 2},
		{func() error { return b.read(t.Context(), 7) }, 2},
		{func() error { return b.refresh(t.Context(), 7) }, 4},
		{func() error { return b.refresh(t.Context(), 7) }, 6},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		vault.mu.Lock()
		if got := vault.version[path]; got != step.version {
			t.Errorf("step %d: the secret has version %d, want %d", i, got, step.version)
		}
		vault.mu.Unlock()
	}
}
