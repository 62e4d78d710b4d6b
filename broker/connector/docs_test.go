package connector_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

const connectorsPage = "../../docs/connectors.md"

func readPage(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(connectorsPage)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// readFiles reads connector files of these contents.
func readFiles(t *testing.T, contents ...string) error {
	t.Helper()
	dir := t.TempDir()
	for i, content := range contents {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)+".json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := connector.ReadDir(dir)
	return err
}

func TestConnectorFileOfThePageIsRead(t *testing.T) {
	t.Parallel()
	blocks := strings.Split(readPage(t), "\n```json\n")[1:]
	if len(blocks) == 0 {
		t.Fatalf("%s shows no connector file", connectorsPage)
	}
	for _, block := range blocks {
		file, _, _ := strings.Cut(block, "\n```\n")
		if err := readFiles(t, file); err != nil {
			t.Errorf("%s: %v\n%s", connectorsPage, err, file)
		}
	}
}

// Every member that a connector file can have is on the page, and every member in the
// page's table is one that files can have.
func TestPageHasEveryMemberOfAConnectorFile(t *testing.T) {
	t.Parallel()
	page := readPage(t)
	members := jsonTags(t)
	if len(members) < 20 {
		t.Fatalf("only the members %v were found: they are not where this test looks for them", members)
	}
	for _, member := range members {
		if !strings.Contains(page, "`"+member+"`") {
			t.Errorf("%s does not explain the member %s", connectorsPage, member)
		}
	}
	_, table, _ := strings.Cut(page, "\n| member | meaning | default |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	rows := regexp.MustCompile(`(?m)^\| ([^|]*) \|`).FindAllStringSubmatch(table, -1)
	if len(rows) < 15 {
		t.Fatalf("the table of %s has only %d rows", connectorsPage, len(rows))
	}
	for _, row := range rows[1:] { // the first one is the line below the heading
		for name := range strings.SplitSeq(row[1], ", ") {
			name = strings.Trim(name, "`")
			file, err := json.Marshal(map[string]any{name: nil})
			if err != nil {
				t.Fatal(err)
			}
			if err := readFiles(t, string(file)); err != nil && strings.Contains(err.Error(), "unknown field") {
				t.Errorf("%s explains the member %s, which connector files cannot have", connectorsPage, name)
			}
		}
	}
}

// jsonTags returns the names of the members that types of the package are read from.
func jsonTags(t *testing.T) (names []string) {
	t.Helper()
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			field, ok := n.(*ast.Field)
			if !ok || field.Tag == nil {
				return true
			}
			tag, _ := strconv.Unquote(field.Tag.Value)
			if name, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ","); name != "" && name != "-" {
				names = append(names, name)
			}
			return true
		})
	}
	return names
}
