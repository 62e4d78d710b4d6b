package caddymodule

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/tracing"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/tokenbroker"
)

// documents returns the text of the README and of the pages in docs, by path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("../docs/*.md")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no pages in docs: %v", err)
	}
	texts := make(map[string]string)
	for _, path := range append(paths, "../README.md") {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[path] = string(b)
	}
	return texts
}

// fenced returns the blocks of a language in a document, without the indentation that
// they have as parts of a list.
func fenced(document, language string) (blocks []string) {
	indentation, inBlock := "", false
	for line := range strings.Lines(document) {
		text := strings.TrimSpace(line)
		switch {
		case !inBlock && text == "```"+language:
			indentation, _, _ = strings.Cut(line, "`")
			blocks, inBlock = append(blocks, ""), true
		case text == "```":
			inBlock = false
		case inBlock:
			blocks[len(blocks)-1] += strings.TrimPrefix(line, indentation)
		}
	}
	return blocks
}

// TestCaddyfilesInTheDocumentsAdapt holds every Caddyfile in the documents to the parser,
// and to its formatting.
func TestCaddyfilesInTheDocumentsAdapt(t *testing.T) {
	t.Parallel()
	blocks := 0
	for path, text := range documents(t) {
		for _, block := range fenced(text, "caddyfile") {
			blocks++
			_, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(block), map[string]any{"filename": path})
			if err != nil {
				t.Errorf("%s: %v\n%s", path, err, block)
			}
			for _, warning := range warnings {
				t.Errorf("%s: %v\n%s", path, warning, block)
			}
		}
	}
	if blocks < 3 {
		t.Errorf("the documents have only %d Caddyfiles: they are not where this test looks for them", blocks)
	}
}

// registeredModules returns the types of our modules in Caddy's registry, by module ID.
func registeredModules(t *testing.T) map[string]reflect.Type {
	t.Helper()
	ours := strings.TrimSuffix(reflect.TypeFor[tokenbroker.App]().PkgPath(), "caddymodule/tokenbroker")
	modules := make(map[string]reflect.Type)
	for _, id := range caddy.Modules() {
		info, err := caddy.GetModule(id)
		if err != nil {
			t.Fatal(err)
		}
		typ := reflect.TypeOf(info.New())
		if typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if strings.HasPrefix(typ.PkgPath(), ours) && !strings.Contains(id, "test_") { // those of other tests
			modules[id] = typ
		}
	}
	if len(modules) < 8 {
		t.Errorf("only %d modules are registered: they are not where this test looks for them", len(modules))
	}
	return modules
}

// TestReadmeKnowsEveryModule holds the list of module IDs to what is registered.
func TestReadmeKnowsEveryModule(t *testing.T) {
	t.Parallel()
	readme := documents(t)["../README.md"]
	for id := range registeredModules(t) {
		if !strings.Contains(readme, "`"+id+"`") {
			t.Errorf("the README does not name the module %s", id)
		}
	}
}
