package storage_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/storage"
)

// A store whose directory is open to others has no socket.
func TestAStoreThatIsInUseWithoutASocketSaysWhatHelps(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("there are no sockets of stores")
	}
	dir := filepath.Join(t.TempDir(), "store")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o750)); err != nil {
		t.Fatal(err)
	}
	embedded := &storage.Embedded{Dir: dir}
	if err := embedded.Provision(caddy.Context{Context: t.Context()}); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s, err := embedded.OpenStore(t.Context(), storage.OpenOptions{Serve: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.(io.Closer).Close() }()
	if text := log.String(); !strings.Contains(text, "level=WARN msg=\"commands of the operator cannot use the embedded store") {
		t.Errorf("the log is %s", text)
	}
	for mode, want := range map[os.FileMode]string{
		0o750: "chmod 700 " + dir + ", which has mode 0750, and restart the process",
		0o700: "restart it: it has no socket for commands",
	} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		_, err := embedded.OpenServed(t.Context(), storage.OpenOptions{Logger: slog.New(slog.DiscardHandler)})
		if !errors.Is(err, boltstore.ErrLocked) || !strings.Contains(err.Error(), want) {
			t.Errorf("mode %v: got %v, want %q", mode, err, want)
		}
	}
}
