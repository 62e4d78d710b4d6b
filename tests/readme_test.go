package tests

import (
	"slices"
	"strings"
	"testing"
)

// The first steps of the README, pasted into a shell, print what it promises.
func TestReadmeFirstImport(t *testing.T) {
	t.Parallel()
	blocks := shellBlocks(readFromRoot(t, "README.md"), "first-import")
	if len(blocks) == 0 {
		t.Fatal("README.md has no ```sh block between <!-- test: first-import --> and <!-- /test -->")
	}
	e := startExample(t)
	for _, block := range blocks {
		wantOutput(t, block, e.bash(t, block))
	}
}

// shellBlocks returns the sh blocks between the comments "test: name" and "/test".
func shellBlocks(markdown, name string) (blocks []string) {
	inTest, inBlock := false, false
	for line := range strings.Lines(markdown) {
		switch strings.TrimSpace(line) {
		case "<!-- test: " + name + " -->":
			inTest = true
		case "<!-- /test -->":
			inTest = false
		case "```sh":
			if inBlock = inTest; inBlock {
				blocks = append(blocks, "")
			}
		case "```":
			inBlock = false
		default:
			if inBlock {
				blocks[len(blocks)-1] += line
			}
		}
	}
	return blocks
}

// wantOutput checks that the output contains the texts that a block promises, in lines
// "# → text", in order.
func wantOutput(t *testing.T, block, output string) {
	t.Helper()
	rest := output
	for line := range strings.Lines(block) {
		want, ok := strings.CutPrefix(strings.TrimSpace(line), "# → ")
		if !ok {
			continue
		}
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Errorf("\n%s\nprints\n%s\nwhich lacks, in this order: %s", block, output, want)
			return
		}
		rest = after
	}
}

func TestShellBlocksAreThoseOfTheTest(t *testing.T) {
	t.Parallel()
	const markdown = "```sh\nno\n```\n<!-- test: a -->\ntext\n```sh\none\n# → 1\n```\n```json\nno\n```\n  ```sh\n  two\n  ```\n<!-- /test -->\n```sh\nno\n```\n"
	want := []string{"one\n# → 1\n", "  two\n"}
	if got := shellBlocks(markdown, "a"); !slices.Equal(got, want) {
		t.Errorf("blocks are %q, want %q", got, want)
	}
	if got := shellBlocks(markdown, "b"); len(got) != 0 {
		t.Errorf("blocks are %q, want none", got)
	}
}

// So does the first run of the guide to migrations.
func TestMigratingGuideCanBeTried(t *testing.T) {
	t.Parallel()
	blocks := shellBlocks(readFromRoot(t, "docs/migrating.md"), "migrating")
	if len(blocks) == 0 {
		t.Fatal("docs/migrating.md has no block to test")
	}
	e := startExample(t)
	for _, block := range blocks {
		wantOutput(t, block, e.bash(t, block))
	}
}
