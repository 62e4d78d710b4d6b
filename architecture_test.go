package tokenbroker_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const architecture = "docs/architecture.md"

var (
	isPath      = regexp.MustCompile(`^(\.|[\w.<>/-]+/[\w.<>-]+|[\w<>-]+\.(go|md|yaml))$`)
	placeholder = regexp.MustCompile(`<\w+>`)
)

// TestArchitecturePageNamesWhatExists: each file and folder that the page names is in the tree.
// A name with a placeholder, such as broker/connector/grant_<name>.go, has to fit something.
func TestArchitecturePageNamesWhatExists(t *testing.T) {
	t.Parallel()
	text := fence.ReplaceAllString(readDocument(t, architecture), "")
	names := 0
	for _, match := range codeSpan.FindAllStringSubmatch(text, -1) {
		name := strings.TrimSuffix(match[1], "/")
		if strings.HasPrefix(name, "/") || match[1] != name+"/" && !isPath.MatchString(name) {
			continue
		}
		names++
		found, err := filepath.Glob(placeholder.ReplaceAllString(name, "*"))
		if err != nil || len(found) == 0 {
			t.Errorf("%s names %s, which does not exist", architecture, match[1])
		}
	}
	if names < 80 {
		t.Errorf("only %d names were found: they are not where this test looks for them", names)
	}
}

// TestArchitecturePageHasTheDirectionOfImports: the page's table has every package once, in a
// row above all that it may import.
func TestArchitecturePageHasTheDirectionOfImports(t *testing.T) {
	t.Parallel()
	rows := make(map[string]int)
	number := 0
	for line := range strings.Lines(sectionOf(t, architecture, "## Packages", "## Four walks")) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		number++
		for _, match := range codeSpan.FindAllStringSubmatch(cells[1], -1) {
			if rows[match[1]] != 0 {
				t.Errorf("%s has package %s twice", architecture, match[1])
			}
			rows[match[1]] = number
		}
	}
	for pkg, mayImport := range allowed {
		if rows[pkg] == 0 {
			t.Errorf("%s does not have package %s", architecture, pkg)
			continue
		}
		for other := range strings.FieldsSeq(mayImport) {
			if rows[other] <= rows[pkg] {
				t.Errorf("%s imports %s, which is not below it in %s", pkg, other, architecture)
			}
		}
	}
	for pkg := range rows {
		if _, known := allowed[pkg]; !known {
			t.Errorf("%s has package %s, which imports_test.go does not know", architecture, pkg)
		}
	}
}
