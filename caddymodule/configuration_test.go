package caddymodule

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/connectionsapi"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/proxy"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/sandbox"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/storage"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/tokenbroker"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/transport"
)

// configurationPage is the page that has to know every option.
const configurationPage = "../docs/configuration.md"

// A documentedType is a part of the configuration.
type documentedType struct {
	section, parser string
	config          any
}

// documented says which section of the page describes what a function parses, and the
// members of which type. A function that parses words and is not here fails the test.
var documented = []documentedType{
	{"token_broker", "tokenbroker.App.UnmarshalCaddyfile", tokenbroker.App{}},
	{"storage vault", "storage.Vault.UnmarshalCaddyfile", storage.Vault{}},
	{"storage embedded", "storage.Embedded.UnmarshalCaddyfile", storage.Embedded{}},
	{"app", "tokenbroker.App.unmarshalApplication", tokenbroker.Application{}},
	{"connector", "tokenbroker.ConnectorConfig.unmarshalLine", tokenbroker.ConnectorConfig{}},
	{"webhook", "tokenbroker.App.unmarshalWebhook", tokenbroker.WebhookConfig{}},
	{"refresh", "tokenbroker.RefreshConfig.unmarshal", tokenbroker.RefreshConfig{}},
	{"limits", "tokenbroker.LimitsConfig.unmarshal", tokenbroker.LimitsConfig{}},
	{"connections_api", "", connectionsapi.Handler{}},
	{"downstream_proxy", "proxy.Handler.UnmarshalCaddyfile", proxy.Handler{}},
	{"transport token_broker", "transport.Transport.UnmarshalCaddyfile", transport.Transport{}},
	{"sandbox_provider", "sandbox.Provider.UnmarshalCaddyfile", sandbox.Provider{}},
}

// An entry is what the page says of one line of a Caddyfile.
type entry struct {
	word string   // the line's first
	json []string // members
	text string   // on one line
}

var (
	sectionHeading = regexp.MustCompile("(?m)^#{2,3} (.*)$")
	entryStart     = regexp.MustCompile("(?m)^- \\*\\*`([a-z_]+)[^`]*`\\*\\*")
	jsonMembers    = regexp.MustCompile("JSON: ((?:`[^`]+`(?:, )?)+)")
)

// entries returns the entries of the page by section.
func entries(t *testing.T) map[string][]entry {
	t.Helper()
	page, err := os.ReadFile(configurationPage)
	if err != nil {
		t.Fatal(err)
	}
	sections := make(map[string][]entry)
	headings := sectionHeading.FindAllSubmatchIndex(page, -1)
	for i, heading := range headings {
		end := len(page)
		if i+1 < len(headings) {
			end = headings[i+1][0]
		}
		name, section := strings.Trim(string(page[heading[2]:heading[3]]), "`"), page[heading[1]:end]
		starts := entryStart.FindAllSubmatchIndex(section, -1)
		for j, start := range starts {
			end := len(section)
			if j+1 < len(starts) {
				end = starts[j+1][0]
			}
			e := entry{word: string(section[start[2]:start[3]]), text: strings.Join(strings.Fields(string(section[start[0]:end])), " ")}
			for _, list := range jsonMembers.FindAllStringSubmatch(e.text, -1) {
				for name := range strings.SplitSeq(strings.TrimSuffix(list[1], ", "), ", ") {
					e.json = append(e.json, strings.Trim(name, "`"))
				}
			}
			sections[name] = append(sections[name], e)
		}
	}
	return sections
}

// TestConfigurationPageHasEveryWordOfTheCaddyfile holds the entries of the page to the
// words that the parser knows: none is missing, and none is made up.
func TestConfigurationPageHasEveryWordOfTheCaddyfile(t *testing.T) {
	t.Parallel()
	parsed := caddyfileWords(t)
	sections := entries(t)
	for _, d := range documented {
		var want []string
		if d.parser != "" {
			if want = parsed[d.parser]; len(want) == 0 {
				t.Errorf("no function %s parses words: correct the table of this test", d.parser)
			}
			delete(parsed, d.parser)
		}
		var got []string
		itself, _, _ := strings.Cut(d.section, " ")
		for _, e := range sections[d.section] {
			if e.word != itself {
				got = append(got, e.word)
			}
		}
		if len(sections[d.section]) == 0 {
			t.Errorf("%s has no section ### `%s`, or no entries in it", configurationPage, d.section)
		}
		compare(t, "section "+d.section+" of the page has the line", "the parser knows the word", got, want)
	}
	for name, words := range parsed {
		t.Errorf("%s parses %v: describe them in %s, and say in the table of this test where", name, words, configurationPage)
	}
}

// TestConfigurationPageHasEveryJSONMember is the same for JSON.
func TestConfigurationPageHasEveryJSONMember(t *testing.T) {
	t.Parallel()
	sections := entries(t)
	for _, d := range documented {
		var got []string
		for _, e := range sections[d.section] {
			got = append(got, e.json...)
		}
		compare(t, "section "+d.section+" of the page has the JSON member", "the type has the member",
			got, jsonNames(reflect.TypeOf(d.config), ""))
	}
}

// TestConfigurationPageHasEveryModule requires a row in the table for each registered module
// that has options.
func TestConfigurationPageHasEveryModule(t *testing.T) {
	t.Parallel()
	for id, typ := range registeredModules(t) {
		hasRow := slices.ContainsFunc(documented, func(d documentedType) bool { return reflect.TypeOf(d.config) == typ })
		if options := jsonNames(typ, ""); len(options) > 0 && !hasRow {
			t.Errorf("the module %s has the options %v: describe them in %s, and say in the table of this test where",
				id, options, configurationPage)
		}
	}
}

// TestConfigurationPageHasEveryDefault holds the page to the defaults that the documentation
// of the types' fields names.
func TestConfigurationPageHasEveryDefault(t *testing.T) {
	t.Parallel()
	defaults := documentedDefaults(t)
	sections := entries(t)
	checked := 0
	for _, d := range documented {
		for _, e := range sections[d.section] {
			for _, member := range e.json {
				value, ok := defaults[reflect.TypeOf(d.config).String()+"."+member]
				if !ok {
					continue
				}
				checked++
				if !strings.Contains(e.text, "`"+value+"`") {
					t.Errorf("section %s: the default of %s is %s, which its entry does not say: %s", d.section, member, value, e.text)
				}
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d defaults were found: they are not where this test looks for them", checked)
	}
}

func compare(t *testing.T, gotWhat, wantWhat string, got, want []string) {
	t.Helper()
	for _, word := range got {
		if !slices.Contains(want, word) {
			t.Errorf("%s %s, and the code does not", gotWhat, word)
		}
	}
	for _, word := range want {
		if !slices.Contains(got, word) {
			t.Errorf("%s %s, and the page does not", wantWhat, word)
		}
	}
}

// jsonNames returns the members of a configuration's type: those of structs inside it as
// "rotation.kind" and "settings[].name". What has a section of its own is one member.
func jsonNames(typ reflect.Type, prefix string) (names []string) {
	for field := range typ.Fields() {
		tag, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.Anonymous && field.Type.Kind() == reflect.Struct { // its members are the type's own
			names = append(names, jsonNames(field.Type, prefix)...)
			continue
		}
		if tag == "" || tag == "-" {
			continue
		}
		inner, name := field.Type, prefix+tag
		if inner.Kind() == reflect.Slice {
			inner, name = inner.Elem(), name+"[]"
		}
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		hasSection := slices.ContainsFunc(documented, func(d documentedType) bool { return reflect.TypeOf(d.config) == inner })
		if inner.Kind() == reflect.Struct && !hasSection {
			names = append(names, jsonNames(inner, name+".")...)
			continue
		}
		names = append(names, prefix+tag)
	}
	return names
}
