package caddymodule

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// syntax returns the parsed files of the adapter, without tests.
func syntax(t *testing.T) (files []*ast.File) {
	t.Helper()
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	below, err := filepath.Glob("*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(paths, below...) {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	return files
}

// caddyfileWords returns the words with which lines begin, by the function that parses
// them: the cases of a switch over d.Val(), and what d.Val() is compared with where there
// is a block.
func caddyfileWords(t *testing.T) map[string][]string {
	t.Helper()
	found := make(map[string][]string)
	for _, file := range syntax(t) {
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			if words := wordsIn(fn.Body); len(words) > 0 {
				found[file.Name.Name+"."+functionName(fn)] = words
			}
		}
	}
	return found
}

func wordsIn(body *ast.BlockStmt) (words []string) {
	var compared []string
	hasBlock := false
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SwitchStmt:
			if readsWord(n) {
				for _, clause := range n.Body.List {
					words = append(words, stringsOf(clause.(*ast.CaseClause).List)...)
				}
			}
		case *ast.BinaryExpr:
			if isWord(n.X) {
				compared = append(compared, stringsOf([]ast.Expr{n.Y})...)
			}
		case *ast.SelectorExpr:
			hasBlock = hasBlock || n.Sel.Name == "NextBlock"
		}
		return true
	})
	if hasBlock {
		words = append(words, compared...)
	}
	return words
}

// readsWord reports whether a switch is over d.Val().
func readsWord(s *ast.SwitchStmt) bool {
	if assign, ok := s.Init.(*ast.AssignStmt); ok && len(assign.Rhs) == 1 {
		return isWord(assign.Rhs[0])
	}
	return s.Tag != nil && isWord(s.Tag)
}

func isWord(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	method, ok := call.Fun.(*ast.SelectorExpr)
	return ok && method.Sel.Name == "Val"
}

func stringsOf(list []ast.Expr) (values []string) {
	for _, e := range list {
		if literal, ok := e.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			value, _ := strconv.Unquote(literal.Value)
			values = append(values, value)
		}
	}
	return values
}

func functionName(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return fn.Name.Name
	}
	typ := fn.Recv.List[0].Type
	if pointer, ok := typ.(*ast.StarExpr); ok {
		typ = pointer.X
	}
	if name, ok := typ.(*ast.Ident); ok {
		return name.Name + "." + fn.Name.Name
	}
	return fn.Name.Name
}

var defaultInComment = regexp.MustCompile("Default: `([^`]+)`")

// documentedDefaults returns the defaults that the comments of fields name, by type and
// JSON member.
func documentedDefaults(t *testing.T) map[string]string {
	t.Helper()
	defaults := make(map[string]string)
	for _, file := range syntax(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			structure, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			for _, field := range structure.Fields.List {
				if field.Tag == nil {
					continue
				}
				comment := strings.Join(strings.Fields(field.Doc.Text()), " ")
				tag, _ := strconv.Unquote(field.Tag.Value)
				member, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
				if match := defaultInComment.FindStringSubmatch(comment); match != nil {
					defaults[file.Name.Name+"."+spec.Name.Name+"."+member] = match[1]
				}
			}
			return true
		})
	}
	return defaults
}

// TestWordsAreFoundWhereverTheyAreParsed is about this test's own eyes.
func TestWordsAreFoundWhereverTheyAreParsed(t *testing.T) {
	t.Parallel()
	const code = `package p
func (a *A) f(d *D) { for d.NextBlock(0) { switch word := d.Val(); word { case "a", "b": default: } } }
func (a A) g(d *D) { switch d.Val() { case "c": } }
func h(d *D) { for d.NextBlock(0) { if d.Val() != "d" { return } } }
func value(d *D) bool { return d.Val() == "off" }
func other(s string) { switch s { case "x": } }
`
	file, err := parser.ParseFile(token.NewFileSet(), "p.go", code, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, decl := range file.Decls {
		fn := decl.(*ast.FuncDecl)
		if words := wordsIn(fn.Body); len(words) > 0 {
			got[functionName(fn)] = strings.Join(words, " ")
		}
	}
	want := map[string]string{"A.f": "a b", "A.g": "c", "h": "d"}
	if !maps.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}
