package tests

import (
	"net/http"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// A Vault Agent replaces the token's file without a reload of the configuration.
func TestVaultTokenIsReadAgainWhenVaultRefusesIt(t *testing.T) {
	t.Parallel()
	server := vaulttest.Shared(t)
	d := newDeployment(t, oauthserver.Config{}).onVault(t, server)
	writeFile(t, d.vaultTokenPath(), "not-a-token\n")
	p := d.run(t)
	var answered answer
	eventually(t, "an answer", func() (err error) {
		answered, err = get(p.apiURL("/vault/connections/"+acme), d.apiHeader(consumer))
		return err
	})
	answered.wantError(t, http.StatusServiceUnavailable, "ServiceUnavailableError")
	if err := p.ready(); err == nil || !strings.Contains(err.Error(), "token") {
		t.Errorf("readiness = %v, want an error about the token", err)
	}

	writeFile(t, d.vaultTokenPath(), server.Token+"\n")
	eventually(t, "readiness", p.ready)
	p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 0))
	d.wantUnbroken(t, p, consumer, 0)
}

// A KV version 1 engine would ignore the compare-and-set parameter of a write and store the
// record, so nothing is ever written to one.
func TestKVVersion1IsRefused(t *testing.T) {
	t.Parallel()
	server := vaulttest.Shared(t)
	d := newDeployment(t, oauthserver.Config{}).onVault(t, server)
	mount := "kv1-" + d.vaultPrefix()
	if err := server.Client().Sys().MountWithContext(t.Context(), mount, &api.MountInput{
		Type: "kv", Options: map[string]string{"version": "1"},
	}); err != nil {
		t.Fatal(err)
	}
	p := d.vaultBlock(server.Addr, mount).run(t)
	body := tokensBody(t, d.provider.Login(t, consumer, 0), nil)
	var answered answer
	eventually(t, "an answer", func() (err error) {
		answered, err = try(t.Context(), http.MethodPost, p.apiURL("/vault/connections/"+acme+"/import"), d.apiHeader(consumer), body)
		return err
	})
	for _, got := range []answer{
		answered, p.importBody(t, acme, consumer, body), p.get(t, acme, consumer), p.call(t, "/acme/contacts", consumer),
	} {
		got.wantError(t, http.StatusServiceUnavailable, "ServiceUnavailableError")
	}
	if err := p.ready(); err == nil || !strings.Contains(err.Error(), "version 1") {
		t.Errorf("readiness = %v, want an error about version 1", err)
	}
	if !strings.Contains(p.log.String(), "version 1") {
		t.Error("the log does not mention version 1")
	}
	if stored, err := server.Client().Logical().ListWithContext(t.Context(), mount); err != nil || stored != nil {
		t.Errorf("the engine contains %v, %v; want nothing", stored, err)
	}
}

// After a refresh, earlier versions of the record are gone with the replaced credentials.
func TestReplacedCredentialsAreDestroyedInVault(t *testing.T) {
	t.Parallel()
	server := vaulttest.Shared(t)
	d := newDeployment(t, oauthserver.Config{}).onVault(t, server)
	p := d.start(t)
	login := d.provider.Login(t, consumer, 2*oauthserver.DefaultLifetime)
	p.importTokens(t, acme, consumer, login)
	d.wantUnbroken(t, p, consumer, 1)
	p.stop(t) // finishes operations in progress

	kv := server.Client().KVv2("secret")
	for _, secretPath := range listVault(t, server, "secret/metadata", d.vaultPrefix()) {
		versions, err := kv.GetVersionsAsList(t.Context(), secretPath)
		if err != nil {
			t.Fatal(err)
		}
		left := 0
		for _, version := range versions {
			if !version.Destroyed && version.DeletionTime.IsZero() {
				left++
			}
		}
		if latest := versions[len(versions)-1].Version; latest < 3 || left != 1 {
			t.Errorf("%s has version %d, and %d versions not destroyed; want 3 or more, and one", secretPath, latest, left)
		}
	}
}

// vaultPrefix returns the prefix of the deployment's secrets.
func (d *deployment) vaultPrefix() string {
	return strings.Trim(strings.ReplaceAll(filepath.ToSlash(d.dir), "/", "-"), "-")
}

// listVault returns the paths of all secrets below a prefix. There must be at least one.
func listVault(t *testing.T, server *vaulttest.Server, mount, prefix string) []string {
	t.Helper()
	var found []string
	unseen := []string{prefix + "/"}
	for len(unseen) > 0 {
		folder := unseen[0]
		unseen = unseen[1:]
		listed, err := server.Client().Logical().ListWithContext(t.Context(), path.Join(mount, folder))
		if err != nil || listed == nil {
			t.Fatalf("listing %s: %v, %v", folder, listed, err)
		}
		names, _ := listed.Data["keys"].([]any)
		for _, name := range names {
			switch full := folder + name.(string); {
			case strings.HasSuffix(full, "/"):
				unseen = append(unseen, full)
			default:
				found = append(found, full)
			}
		}
	}
	return found
}
