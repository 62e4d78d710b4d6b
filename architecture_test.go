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

// TestArchitecturePageHasTheDirectionOfImports: the page's table has every package once, and a
// package imports only those in rows above its own.
func TestArchitecturePageHasTheDirectionOfImports(t *testing.T) {
	t.Parallel()
	rows := make(map[string]int)
	number := 0
	for line := range strings.Lines(sectionOf(t, architecture, "## Packages", "## Three walks")) {
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
	packages := 0
	for _, words := range list(t, `{{join .Imports " "}}`, "./...") {
		name := inTree(words[0])
		packages++
		if rows[name] == 0 {
			t.Errorf("%s does not have package %s", architecture, name)
			continue
		}
		for _, path := range words[1:] {
			if other := inTree(path); other != "" && rows[other] >= rows[name] {
				t.Errorf("%s imports %s, which is not above it in %s", name, other, architecture)
			}
		}
	}
	if packages != len(rows) {
		t.Errorf("%s has %d packages, and the tree has %d", architecture, len(rows), packages)
	}
}

// inTree returns the folder of one of the module's packages, empty for a package of others.
func inTree(importPath string) string {
	rest, ours := strings.CutPrefix(importPath+"/", module+"/")
	if !ours {
		return ""
	}
	return filepath.Clean(rest)
}
