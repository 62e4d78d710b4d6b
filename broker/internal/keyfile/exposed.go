package keyfile

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
)

// WarnIfExposed logs a warning for the directory if others can replace files in it, and for
// the key file, unless it has no path, if others can read or write it. Both are created with no permissions for
// others, but may have been placed by somebody else.
func WarnIfExposed(ctx context.Context, logger *slog.Logger, dir, path string) {
	if runtime.GOOS == "windows" { // modes say nothing there
		return
	}
	for _, check := range []struct {
		path         string
		exposes, fix fs.FileMode
	}{
		{dir, 0o022, 0o700},
		{path, 0o077, 0o600},
	} {
		info, err := os.Stat(check.path)
		if err == nil && info.Mode().Perm()&check.exposes != 0 {
			logger.LogAttrs(ctx, slog.LevelWarn,
				"other users of this machine can get at what is stored here; take their permissions away",
				slog.String("path", check.path), slog.String("mode", info.Mode().Perm().String()), slog.String("should_be", check.fix.String()))
		}
	}
}
