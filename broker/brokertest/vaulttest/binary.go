package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// buildTimeout bounds the building of Vault from source, once per machine.
const buildTimeout = 30 * time.Minute

// binary returns the path of a Vault binary, which it builds if need be.
var binary = sync.OnceValues(func() (string, error) {
	script, err := buildScript()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", script)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", script, err)
	}
	return strings.TrimSpace(string(out)), nil
})

// buildScript finds the script beside this source file; with -trimpath, which hides
// where that is, in a directory above the working directory.
func buildScript() (string, error) {
	_, source, _, _ := runtime.Caller(0)
	starts := []string{filepath.Dir(source)}
	if dir, err := os.Getwd(); err == nil {
		starts = append(starts, dir)
	}
	for _, dir := range starts {
		for ; filepath.IsAbs(dir); dir = filepath.Dir(dir) {
			script := filepath.Join(dir, "tests", "vaultserver", "build.sh")
			if _, err := os.Stat(script); err == nil {
				return script, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", errors.New("tests/vaultserver/build.sh is not in this source tree")
}
