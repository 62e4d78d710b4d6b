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

// buildTimeout bounds building Vault from source, which happens once per machine.
const buildTimeout = 30 * time.Minute

// binary returns the path of a Vault binary, which it builds if there is none.
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

// buildScript finds the script in a directory above this source file or, since -trimpath
// hides the path of that, above the working directory.
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
