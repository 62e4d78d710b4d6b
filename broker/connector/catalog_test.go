package connector

import (
	"net/url"
	"strings"
	"testing"
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
				t.Errorf("source %q is no https URL", e.Source)
			}
			for name, value := range map[string]string{"name": e.Name, "website": e.Website, "checked": e.Checked, "base_url": e.BaseURL} {
				if value == "" {
					t.Errorf("%s is missing", name)
				}
			}
			if d.AuthType == OAuth2 && e.Rotation == "" {
				t.Error("rotation is missing: say always if it is not known")
			}
			if d.AllowPrivate {
				t.Error("allow_private is not for the catalogue")
			}
		})
	}
}

func TestLookupHandsOutCopies(t *testing.T) {
	t.Parallel()
	id := ID{UnifiedAPI: "accounting", ServiceID: "xero"}
	d, ok := Lookup(id)
	if !ok {
		t.Fatalf("no entry %s", id)
	}
	d.Inject[0].Name = "X-Changed"
	Catalog()[id].Settings[0].Name = "changed"
	again, _ := Lookup(id)
	if got := again.Inject[0].Name; got != "Authorization" {
		t.Errorf("the entry was changed: header %s", got)
	}
	if got := again.Settings[0].Name; got != "tenant_id" {
		t.Errorf("the entry was changed: setting %s", got)
	}
	if _, ok := Lookup(ID{UnifiedAPI: "crm", ServiceID: "acme"}); ok {
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
