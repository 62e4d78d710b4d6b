package connector

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/publicsuffix"
)

func TestCatalogueEntriesObeyEveryRule(t *testing.T) {
	t.Parallel()
	files, err := catalogFiles.ReadDir("catalog")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		t.Run(f.Name(), func(t *testing.T) {
			t.Parallel()
			b, err := catalogFiles.ReadFile("catalog/" + f.Name())
			if err != nil {
				t.Fatal(err)
			}
			e, err := decodeFile(b)
			if err != nil {
				t.Fatal(err)
			}
			d, err := e.definition()
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Validate(); err != nil {
				t.Error(err)
			}
			if got, want := strings.ReplaceAll(e.ID, "/", "_")+".json", f.Name(); got != want {
				t.Errorf("the entry belongs in %s", got)
			}
			if u, err := url.Parse(e.Source); err != nil || u.Scheme != "https" || u.Host == "" {
				t.Errorf("source %q is not an https URL", e.Source)
			}
			for name, value := range map[string]string{"name": e.Name, "website": e.Website, "checked": e.Checked, "base_url": e.BaseURL} {
				if value == "" {
					t.Errorf("%s is missing", name)
				}
			}
			if d.AuthType == OAuth2 && e.Rotation.Kind == "" {
				t.Error("rotation is missing: say always if it is not known")
			}
			if d.AllowPrivate {
				t.Error("allow_private is not for the catalogue")
			}
			if !slices.Contains(unifiedAPIs, d.ID.UnifiedAPI) {
				t.Errorf("%s is not a unified API of the Apideck API", d.ID.UnifiedAPI)
			}
			if d.KeepAlive != 0 && (d.AuthType != OAuth2 || d.KeepAlive < 24*time.Hour) {
				t.Errorf("keep_alive %s is for refresh tokens, and longer than a day", d.KeepAlive)
			}
		})
	}
}

// unifiedAPIs are the values of the Apideck API's UnifiedApiId.
var unifiedAPIs = []string{
	"accounting", "ats", "calendar", "crm", "csp", "customer-support", "data-warehouse", "ecommerce", "email",
	"email-marketing", "expense-management", "file-storage", "form", "hris", "issue-tracking", "lead", "payroll",
	"pos", "procurement", "project-management", "script", "sms", "spreadsheet", "subscription-analytics",
	"team-messaging", "time-registration", "transactional-email", "vault",
}

// The catalogue covers all unified APIs in wide use.
func TestCatalogueHasEntriesForEachUnifiedAPI(t *testing.T) {
	t.Parallel()
	entries := make(map[string]int)
	for id := range Catalog() {
		entries[id.UnifiedAPI]++
	}
	for _, api := range []string{
		"accounting", "ats", "crm", "customer-support", "ecommerce", "file-storage", "hris", "issue-tracking", "lead", "pos", "sms",
	} {
		if entries[api] == 0 {
			t.Errorf("%s has no entry", api)
		}
	}
}

// A credential goes only to the service that it is for, so every host of an entry must share
// an owner with the entry's own URLs. With an origin setting no URL names the API's host; then
// allow_hosts does, exactly or below the service's own domain.
func TestCatalogueEntriesAllowHostsOfTheirServiceOnly(t *testing.T) {
	t.Parallel()
	for id, d := range Catalog() {
		owners := make(map[string]bool)
		origin := false
		for _, s := range []string{d.BaseURL, d.TokenURL, d.Website} {
			tmpl, err := parseURLTemplate(s)
			if s == "" || err != nil {
				continue
			}
			origin = origin || tmpl.origin != ""
			if owner, err := publicsuffix.EffectiveTLDPlusOne(tmpl.host.with("x")); err == nil {
				owners[owner] = true
			}
		}
		wildcards := 0
		for _, s := range d.AllowHosts {
			host, wildcard := strings.CutPrefix(s, "*.")
			if wildcard {
				wildcards++
			}
			owner, err := publicsuffix.EffectiveTLDPlusOne(host)
			if err != nil {
				t.Errorf("%s: allow_hosts: %s has no owner: %v", id, s, err)
				continue
			}
			if !origin && !owners[owner] {
				t.Errorf("%s: allow_hosts: %s is not one of the service's hosts, which are below %v", id, s, slices.Sorted(maps.Keys(owners)))
			}
		}
		if most := map[bool]int{false: 2, true: 11}[origin]; wildcards > most { // of origins a connection has one
			t.Errorf("%s: allow_hosts has %d wildcards: name the hosts", id, wildcards)
		}
	}
}

// Faults in how an entry's settings, templates and placements work together show once a
// connection has everything that the entry asks for.
func TestCatalogueEntriesCanBeCalledWithWhatTheyAskFor(t *testing.T) {
	t.Parallel()
	for id, d := range Catalog() {
		settings := make(map[string]any)
		for _, s := range d.Settings {
			settings[s.Name] = "acme"
			if s.Origin {
				settings[s.Name] = "https://" + strings.Replace(d.AllowHosts[0], "*.", "acme.", 1)
			}
		}
		if missing := d.MissingSettings(settings); len(missing) > 0 {
			t.Errorf("%s: settings are used and not declared: %v", id, missing)
		}
		if err := d.CheckSettings(settings); err != nil {
			t.Errorf("%s: %v", id, err)
		}
		base, err := renderBaseURL(&d, settings)
		if err != nil {
			t.Errorf("%s: base_url: %v", id, err)
			continue
		}
		u, err := url.Parse(base)
		if err != nil {
			t.Fatalf("%s: base_url: %v", id, err)
		}
		if err := d.AllowsHost(u.Scheme, u.Host, settings); err != nil {
			t.Errorf("%s: base_url is not allowed: %v", id, err)
		}
		injected, err := d.Injections(settings, "token")
		if err != nil || len(injected) == 0 {
			t.Errorf("%s: injects %v: %v", id, injected, err)
		}
		if d.AuthType != OAuth2 {
			continue
		}
		for name, render := range map[string]func(map[string]any) (string, error){
			"token_url": d.RenderTokenURL, "refresh_url": d.RenderRefreshURL, "revocation_url": d.RenderRevocationURL,
		} {
			if s, err := render(settings); err != nil || s == "" && name != "revocation_url" {
				t.Errorf("%s: %s: %q: %v", id, name, s, err)
			}
		}
	}
}

// The hosts of customers that public reports name.
func TestCatalogueEntriesTakeTheHostsThatCustomersHave(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ entry, setting, value string }{
		{"crm/salesforce", "instance_url", "https://acme.my.salesforce.com"},
		{"crm/salesforce", "instance_url", "https://acme--dev.sandbox.my.salesforce.com"},
		{"crm/salesforce", "instance_url", "https://acme-dev-ed.develop.my.salesforce.com"},
		{"crm/salesforce", "instance_url", "https://acme.scratch.my.salesforce.com"},
		{"crm/salesforce", "instance_url", "https://acme.trailblaze.my.salesforce.com"},
		{"crm/salesforce", "instance_url", "https://acme.my.salesforce.mil"},
		{"crm/salesforce", "instance_url", "https://na1.salesforce.com"},
		{"crm/salesforce", "login_url", "https://test.salesforce.com"},
		{"crm/salesforce", "login_url", "https://acme--dev.sandbox.my.salesforce.com"},
		{"crm/zoho-crm", "accounts_url", "https://accounts.zoho.uk"},
		{"crm/zoho-crm", "api_domain", "https://www.zohoapis.uk"},
		{"accounting/zoho-books", "api_domain", "https://www.zohoapis.uk"},
		{"ecommerce/shopify", "shop", "acme"},
		{"ecommerce/shopify", "shop", "acme.myshopify.com"},
		{"customer-support/zendesk", "subdomain", "acme.zendesk.com"},
	} {
		id, err := ParseID(tt.entry)
		if err != nil {
			t.Fatal(err)
		}
		d := Catalog()[id]
		if err := d.CheckSettings(map[string]any{tt.setting: tt.value}); err != nil {
			t.Errorf("%s: %s %s: %v", tt.entry, tt.setting, tt.value, err)
		}
	}
}

func TestCatalogHandsOutCopies(t *testing.T) {
	t.Parallel()
	id := ID{UnifiedAPI: "accounting", ServiceID: "xero"}
	d, ok := Catalog()[id]
	if !ok {
		t.Fatalf("no entry %s", id)
	}
	d.Inject[0].Name = "X-Changed"
	Catalog()[id].Settings[0].Name = "changed"
	again := Catalog()[id]
	if got := again.Inject[0].Name; got != "Authorization" {
		t.Errorf("the entry was changed: header %s", got)
	}
	if got := again.Settings[0].Name; got != "tenant_id" {
		t.Errorf("the entry was changed: setting %s", got)
	}
	if _, ok := Catalog()[ID{UnifiedAPI: "crm", ServiceID: "acme"}]; ok {
		t.Error("there is an entry crm/acme")
	}
}

func TestCatalogueEntriesRefuseUnknownMembers(t *testing.T) {
	t.Parallel()
	for _, s := range []string{`{"id":"crm/x","token_uri":"x"}`, `{"id":"crm/x"} {}`, `[]`} {
		if _, err := decodeFile([]byte(s)); err == nil {
			t.Errorf("%s was read without error", s)
		}
	}
}
