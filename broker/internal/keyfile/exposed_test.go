package keyfile

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestWidePermissionsAreWarnedOf(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("modes say nothing here")
	}
	for _, tt := range []struct {
		dir, key os.FileMode
		warned   []string // paths, below the directory
	}{
		{0o700, 0o600, nil},
		{0o755, 0o400, nil}, // others can see names only
		{0o777, 0o600, []string{""}},
		{0o770, 0o600, []string{""}},
		{0o700, 0o644, []string{Name}},
		{0o777, 0o604, []string{"", Name}},
	} {
		dir := filepath.Join(t.TempDir(), "data")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, Name)
		if _, err := Create(path); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Fatalf("the key was created as %v, %v, want 0600", info.Mode(), err)
		}
		for path, mode := range map[string]os.FileMode{path: tt.key, dir: tt.dir} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
		var log bytes.Buffer
		WarnIfExposed(t.Context(), slog.New(slog.NewTextHandler(&log, nil)), dir, path)
		if got := strings.Count(log.String(), "other users of this machine"); got != len(tt.warned) {
			t.Errorf("%o, %o: got %d warnings, want %d:\n%s", tt.dir, tt.key, got, len(tt.warned), &log)
		}
		for _, name := range tt.warned {
			if want := "path=" + filepath.Join(dir, name) + " "; !strings.Contains(log.String(), want) {
				t.Errorf("%o, %o: got %s, want %s", tt.dir, tt.key, &log, want)
			}
		}
	}
	WarnIfExposed(t.Context(), slog.New(slog.DiscardHandler), filepath.Join(t.TempDir(), "none"), "")
}
