package tests

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// noHistory is the exit status of tests/previous/build.sh if the commit is missing.
const noHistory = 3

// A release is the token-broker of an earlier commit.
type release struct {
	binary string
	source string // directory of the commit's source tree
}

var builtPrevious = sync.OnceValues(func() (release, error) {
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(root, "tests", "previous", "build.sh"))
	cmd.Stderr = os.Stderr
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	dir := strings.TrimSpace(string(out))
	return release{filepath.Join(dir, "token-broker"), filepath.Join(dir, "source")}, err
})

// previous returns the release that this tree must be compatible with. Without the
// repository's history the test is skipped; in CI it fails.
func previous(t *testing.T) release {
	t.Helper()
	r, err := builtPrevious()
	var failed *exec.ExitError
	if errors.As(err, &failed) && failed.ExitCode() == noHistory && os.Getenv("CI") != "true" {
		t.Skip("SKIPPED: the commit of the previous release is not in the history: git fetch --unshallow")
	}
	if err != nil {
		t.Fatalf("tests/previous/build.sh: %v", err)
	}
	return r
}

// inBothDirections runs a test twice: the previous release writes and this one reads, and
// vice versa.
func inBothDirections(t *testing.T, test func(t *testing.T, writer, reader string)) {
	t.Helper()
	t.Parallel()
	before := previous(t).binary
	t.Run("written before", func(t *testing.T) { test(t, before, binary) })
	t.Run("written now", func(t *testing.T) { test(t, binary, before) })
}
