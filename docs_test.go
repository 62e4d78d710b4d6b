package tokenbroker_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// documents are the project's pages for people.
func documents(t *testing.T) []string {
	t.Helper()
	pages, err := filepath.Glob("docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("there are no pages in docs: %v", err)
	}
	return append(pages, "README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
}

func readDocument(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestReadmeIsAFrontPage(t *testing.T) {
	t.Parallel()
	const most = 120
	if lines := strings.Count(readDocument(t, "README.md"), "\n"); lines > most {
		t.Errorf("README.md has %d lines, more than %d: move what is not for a first visit to docs", lines, most)
	}
}

var (
	fence    = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	comment  = regexp.MustCompile("(?s)<!--.*?-->")
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#{1,6} (.*)$`)
	codeSpan = regexp.MustCompile("`([^`]+)`")
	noAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// TestLinksBetweenDocumentsLeadSomewhere follows every link to a file of this repository,
// and to a heading in it.
func TestLinksBetweenDocumentsLeadSomewhere(t *testing.T) {
	t.Parallel()
	links := 0
	for _, path := range documents(t) {
		text := comment.ReplaceAllString(fence.ReplaceAllString(readDocument(t, path), ""), "")
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			links++
			file, anchor, _ := strings.Cut(match[1], "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: the link %s: %v", path, match[1], err)
			} else if anchor != "" && !slices.Contains(anchors(readDocument(t, target)), anchor) {
				t.Errorf("%s: the link %s: there is no such heading in %s", path, match[1], target)
			}
		}
	}
	if links < 30 {
		t.Errorf("only %d links were found", links)
	}
}

// anchors returns the names under which GitHub knows a document's headings.
func anchors(text string) (names []string) {
	for _, match := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		names = append(names, strings.ReplaceAll(noAnchor.ReplaceAllString(strings.ToLower(match[1]), ""), " ", "-"))
	}
	return names
}

const operations = "docs/operations.md"

// sectionOf returns the part of a document from one heading to another.
func sectionOf(t *testing.T, path, from, to string) string {
	t.Helper()
	_, text, found := strings.Cut(readDocument(t, path), "\n"+from+"\n")
	text, _, ends := strings.Cut(text, "\n"+to+"\n")
	if !found || !ends {
		t.Fatalf("%s has no section %q before %q", path, from, to)
	}
	return text
}

// TestOperationsPageHasTheLogMessages: each message that the page explains is one of the
// code's, or the beginning of one, and each error and warning of the code is explained.
func TestOperationsPageHasTheLogMessages(t *testing.T) {
	t.Parallel()
	texts, logged := make(map[string]bool), make(map[string]bool)
	for _, file := range sources(t) {
		maps.Copy(texts, stringsIn(file))
		maps.Copy(logged, messagesIn(file))
	}
	if len(logged) < 20 {
		t.Fatalf("only %d messages were found: they are not where this test looks for them", len(logged))
	}
	var explained []string
	for line := range strings.Lines(sectionOf(t, operations, "## Logs", "## Traces")) {
		row, isRow := strings.CutPrefix(line, "| `")
		if !isRow {
			continue
		}
		cell, _, _ := strings.Cut("`"+row, " |")
		for _, message := range codeSpan.FindAllStringSubmatch(cell, -1) {
			explained = append(explained, message[1])
		}
	}
	for _, message := range explained {
		if !hasPrefixed(texts, message) {
			t.Errorf("%s explains the message %q, which the code does not log", operations, message)
		}
	}
	for message := range logged {
		if !slices.ContainsFunc(explained, func(prefix string) bool { return strings.HasPrefix(message, prefix) }) {
			t.Errorf("the code logs %q, which %s does not explain", message, operations)
		}
	}
}

func hasPrefixed(texts map[string]bool, prefix string) bool {
	for text := range texts {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	return false
}

// TestOperationsPageHasTheSpans: the page and the code have the same names of spans and
// attributes.
func TestOperationsPageHasTheSpans(t *testing.T) {
	t.Parallel()
	name := regexp.MustCompile(`^token_broker(\.[a-z_]+)+\.?$`)
	section := sectionOf(t, operations, "## Traces", "## What to alert on")
	named := make(map[string]bool)
	for _, match := range codeSpan.FindAllStringSubmatch(section, -1) {
		if text := strings.TrimSuffix(match[1], "*"); name.MatchString(text) {
			named[text] = true
		}
	}
	inCode := make(map[string]bool)
	for _, file := range sources(t) {
		for text := range stringsIn(file) {
			// Modules have such names too.
			if name.MatchString(text) && !strings.HasPrefix(text, "token_broker.storage.") {
				inCode[text] = true
			}
		}
	}
	if len(inCode) < 20 {
		t.Fatalf("only the names %v were found: they are not where this test looks for them", inCode)
	}
	for text := range inCode {
		ofStore := strings.HasPrefix(text, "token_broker.store.") && named["token_broker.store."]
		if !named[text] && !ofStore {
			t.Errorf("%s does not name %s", operations, text)
		}
	}
	for text := range named {
		if !inCode[text] {
			t.Errorf("%s names %s, which the code does not have", operations, text)
		}
	}
}

// sources returns the parsed files of the library and the adapter, without tests.
func sources(t *testing.T) (files []*ast.File) {
	t.Helper()
	for _, dir := range []string{"broker", "caddymodule"} {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if entry.IsDir() && entry.Name() == "brokertest" {
				return filepath.SkipDir
			}
			if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			files = append(files, file)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// literal returns the string that an expression of literals stands for.
func literal(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		x, okX := literal(e.X)
		y, okY := literal(e.Y)
		return x + y, okX && okY
	default:
		return "", false
	}
}

// stringsIn returns the strings that stand in a file.
func stringsIn(file *ast.File) map[string]bool {
	texts := make(map[string]bool)
	ast.Inspect(file, func(n ast.Node) bool {
		if e, ok := n.(ast.Expr); ok {
			if text, ok := literal(e); ok {
				texts[text] = true
			}
		}
		return true
	})
	return texts
}

// messagesIn returns the messages that a file logs as warnings and errors. One that is in a
// variable counts with each value that its function gives to that, but for those that
// come with the level of information.
func messagesIn(file *ast.File) map[string]bool {
	messages := make(map[string]bool)
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			message := messageOf(call)
			if text, ok := literal(message); ok {
				messages[text] = true
			} else if variable, ok := message.(*ast.Ident); ok {
				maps.Copy(messages, valuesOf(fn.Body, variable.Name))
			}
			return true
		})
	}
	return messages
}

// messageOf returns the message of a call that logs a warning or an error, or at a level
// that is in a variable; nil for any other.
func messageOf(call *ast.CallExpr) ast.Expr {
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return nil
	}
	switch name := method.Sel.Name; {
	case (name == "Error" || name == "Warn") && len(call.Args) > 0:
		return call.Args[0]
	case (name == "LogAttrs" || name == "log") && len(call.Args) > 2:
		if !isBelowWarning(call.Args[1]) {
			return call.Args[2]
		}
	}
	return nil
}

// isBelowWarning reports whether an expression is slog.LevelInfo or slog.LevelDebug.
func isBelowWarning(e ast.Expr) bool {
	level, ok := e.(*ast.SelectorExpr)
	return ok && (level.Sel.Name == "LevelInfo" || level.Sel.Name == "LevelDebug")
}

func valuesOf(body *ast.BlockStmt, variable string) map[string]bool {
	values := make(map[string]bool)
	ast.Inspect(body, func(n ast.Node) bool {
		assign, ok := n.(*ast.AssignStmt)
		if !ok || len(assign.Lhs) != len(assign.Rhs) || slices.ContainsFunc(assign.Rhs, isBelowWarning) {
			return true
		}
		for i, target := range assign.Lhs {
			if name, ok := target.(*ast.Ident); ok && name.Name == variable {
				if text, ok := literal(assign.Rhs[i]); ok {
					values[text] = true
				}
			}
		}
		return true
	})
	return values
}
