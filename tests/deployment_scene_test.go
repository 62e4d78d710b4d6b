package tests

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// The one application of all deployments, and the connectors.
const (
	application = "my-app"
	quickbooks  = "accounting/quickbooks" // from the catalogue, with a path in its base_url
	acme        = "crm/acme"              // defined in the configuration
	keyed       = "crm/keyed"             // an API key in a header
	machine     = "crm/machine"           // client credentials
)

// A deployment is what one or more processes share: configuration, environment, files, the
// store, and the services that they talk to.
type deployment struct {
	dir      string   // HOME, and the directories that Caddy keeps its files in
	env      []string // beyond PATH, HOME and XDG_*
	under    []string // command that runs the binary; may be empty
	binary   string   // path; empty: the token-broker under test
	storage  string   // line or block of the Caddyfile
	isShared bool     // several processes can use the store at the same time
	provider *oauthserver.Server
	webhooks *webhookReceiver

	apiKey, clientSecret, webhookSecret string

	global string // more lines of the global options
	broker string // more lines of the token_broker block
	site   string // more lines of each site
}

// inEveryStore runs a test on a deployment with each of the stores.
func inEveryStore(t *testing.T, test func(*testing.T, *deployment)) {
	t.Helper()
	t.Parallel()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		test(t, newDeployment(t, oauthserver.Config{}).onDisk())
	})
	t.Run("vault", func(t *testing.T) {
		t.Parallel()
		test(t, newDeployment(t, oauthserver.Config{}).onVault(t, vaulttest.Shared(t)))
	})
}

// newDeployment returns a deployment without a store. Its client secret is
// config.ClientSecret, if that is set.
func newDeployment(t testing.TB, config oauthserver.Config) *deployment {
	t.Helper()
	d := &deployment{dir: t.TempDir(), apiKey: "an-api-key", webhookSecret: "a-webhook-secret", clientSecret: "a-client-secret"}
	if config.ClientSecret != "" {
		d.clientSecret = config.ClientSecret
	}
	config.ClientSecret = d.clientSecret
	d.provider = oauthserver.Start(t, config)
	d.webhooks = newWebhookReceiver(t)
	return d
}

// onDisk selects the embedded store.
func (d *deployment) onDisk() *deployment {
	d.storage = "storage embedded"
	return d
}

// onVault selects a Vault as the store, under the deployment's own prefix. The token comes from
// a file.
func (d *deployment) onVault(t testing.TB, server *vaulttest.Server) *deployment {
	t.Helper()
	writeFile(t, d.vaultTokenPath(), server.Token+"\n")
	return d.vaultBlock(server.Addr, "secret")
}

func (d *deployment) vaultTokenPath() string { return filepath.Join(d.dir, "vault-token") }

func (d *deployment) vaultBlock(address, mount string) *deployment {
	d.storage = fmt.Sprintf("storage vault {\n address %s\n mount %s\n prefix %s\n auth token {file.%s}\n}",
		address, mount, d.vaultPrefix(), d.vaultTokenPath())
	d.isShared = true
	return d
}

// secretFile writes a secret to a file and returns the placeholder for it.
func (d *deployment) secretFile(t testing.TB, name, secret string) string {
	t.Helper()
	path := filepath.Join(d.dir, name)
	writeFile(t, path, secret+"\n")
	return "{file." + path + "}"
}

// caddyfile returns the configuration of one process.
func (d *deployment) caddyfile(t testing.TB, p ports) string {
	t.Helper()
	var b strings.Builder
	if err := caddyfileTemplate.Execute(&b, map[string]any{
		"Ports": p, "Storage": d.storage, "Global": d.global, "Broker": d.broker, "Site": d.site, "Application": application,
		"APIKey": d.secretFile(t, "api-key", d.apiKey), "ClientID": oauthserver.ClientID,
		"ClientSecret":  d.secretFile(t, "client-secret", d.clientSecret),
		"WebhookSecret": d.secretFile(t, "webhook-secret", d.webhookSecret),
		"TokenURL":      d.provider.TokenURL, "RevocationURL": d.provider.RevocationURL, "API": d.provider.APIURL, "WebhookURL": d.webhooks.url,
	}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// caddyfileTemplate has a sidecar with a path for each connector, where callers need no key,
// and /authenticated/, where they do.
var caddyfileTemplate = template.Must(template.New("Caddyfile").Parse(`{
	admin 127.0.0.1:{{.Ports.Admin}}
	{{.Global}}
	token_broker {
		{{.Storage}}
		{{.Broker}}
		app {{.Application}} {
			api_key {{.APIKey}}
		}
		connector accounting/quickbooks {
			token_url {{.TokenURL}}
			base_url {{.API}}/v3/company/{realm_id}
			allow_host 127.0.0.1
			client_id {{.ClientID}}
			client_secret {{.ClientSecret}}
			allow_private
		}
		connector crm/acme {
			auth_type oauth2
			auth_style params
			token_url {{.TokenURL}}
			revocation_url {{.RevocationURL}}
			base_url {{.API}}
			setting secret_note sensitive
			client_id {{.ClientID}}
			client_secret {{.ClientSecret}}
			allow_private
		}
		connector crm/keyed {
			auth_type apiKey
			base_url {{.API}}
			inject header X-Api-Key
			allow_private
		}
		connector crm/machine {
			auth_type oauth2
			grant_type client_credentials
			auth_style header
			token_url {{.TokenURL}}
			base_url {{.API}}
			client_id {{.ClientID}}
			client_secret {{.ClientSecret}}
			allow_private
		}
		webhook {{.WebhookURL}} {
			secret {{.WebhookSecret}}
			allow_private
		}
		refresh {
			timeout 30s
		}
	}
}

http://127.0.0.1:{{.Ports.API}} {
	bind 127.0.0.1
	tracing
	{{.Site}}
	connections_api
	downstream_proxy
}

http://127.0.0.1:{{.Ports.Sidecar}} {
	bind 127.0.0.1
	tracing
	{{.Site}}
	handle_path /quickbooks/* {
		reverse_proxy {{.API}} {
			transport token_broker accounting/quickbooks {
				app {{.Application}}
			}
		}
	}
	handle_path /acme/* {
		reverse_proxy {{.API}} {
			transport token_broker crm/acme {
				app {{.Application}}
			}
		}
	}
	handle_path /keyed/* {
		reverse_proxy {{.API}} {
			transport token_broker crm/keyed {
				app {{.Application}}
			}
		}
	}
	handle_path /machine/* {
		reverse_proxy {{.API}} {
			transport token_broker crm/machine {
				app {{.Application}}
			}
		}
	}
	handle_path /authenticated/* {
		reverse_proxy {{.API}} {
			transport token_broker crm/acme
		}
	}
}
`))
