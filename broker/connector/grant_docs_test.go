package connector

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// TestPagesNameEveryGrant compares the grant names on each page with the table of grants.
func TestPagesNameEveryGrant(t *testing.T) {
	t.Parallel()
	want := slices.Sorted(slices.Values(grantTypes()))
	names := regexp.MustCompile(`[a-z]+(?:_[a-z]+)*`)
	for _, place := range []struct{ page, list string }{ // the list is the regular expression's group
		{"connectors.md", "(?m)^\\| `grant_type` \\| ([^|]*), see "},
		{"configuration.md", "(?m)^- \\*\\*`grant_type ([^`]*)`"},
		{"openapi.yaml", `(?m)^ +oauth_grant_type:\n +type: string\n +enum: \[(.*)\]`},
	} {
		page, err := os.ReadFile("../../docs/" + place.page)
		if err != nil {
			t.Fatal(err)
		}
		list := regexp.MustCompile(place.list).FindSubmatch(page)
		if list == nil {
			t.Errorf("docs/%s has no list of grants where this test looks for it", place.page)
			continue
		}
		got := names.FindAllString(string(list[1]), -1)
		got = slices.DeleteFunc(got, func(name string) bool { return name == "or" })
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("docs/%s has the grants %v, want %v", place.page, got, want)
		}
	}
}

// TestPageDescribesEveryGrant compares the rows of a table in docs/connectors.md with the table of grants.
func TestPageDescribesEveryGrant(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/connectors.md")
	if err != nil {
		t.Fatal(err)
	}
	table := regexp.MustCompile("(?m)^\\| `grant_type` \\| how .*\n\\|---\\|---\\|\n((?:\\|.*\n)+)").FindSubmatch(page)
	if table == nil {
		t.Fatal("docs/connectors.md has no table of grants where this test looks for it")
	}
	var got []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)`").FindAllSubmatch(table[1], -1) {
		got = append(got, string(row[1]))
	}
	slices.Sort(got)
	if want := slices.Sorted(slices.Values(grantTypes())); !slices.Equal(got, want) {
		t.Errorf("the table of grants in docs/connectors.md has %v, want %v", got, want)
	}
}
