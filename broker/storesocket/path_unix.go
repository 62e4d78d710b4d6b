//go:build unix

package storesocket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// ownerOf returns the user whom a file belongs to.
func ownerOf(info os.FileInfo) int {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1
	}
	return int(stat.Uid)
}

// checkDir returns an error unless the directory is this user's alone.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 || ownerOf(info) != os.Geteuid() {
		return fmt.Errorf("%w: %s has mode %v and belongs to user %d: it must have mode 0700 and belong to user %d",
			ErrUnsafe, dir, mode, ownerOf(info), os.Geteuid())
	}
	return nil
}

// checkSocket returns the owner of the socket, if that is this user, or this user is root, and no
// other user can have made the socket or use it.
func checkSocket(dir, path string) (owner int, err error) {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, ErrNotServed
	}
	if err != nil {
		return 0, err
	}
	above, err := os.Stat(dir)
	if err != nil {
		return 0, err
	}
	owner = ownerOf(info)
	switch {
	case info.Mode().Type() != os.ModeSocket:
		err = fmt.Errorf("%w: %s is not a socket", ErrUnsafe, path)
	case info.Mode().Perm()&0o077 != 0 || above.Mode().Perm()&0o077 != 0:
		err = fmt.Errorf("%w: %s has mode %v, its directory %v: they must have 0600 and 0700",
			ErrUnsafe, path, info.Mode().Perm(), above.Mode().Perm())
	case owner != ownerOf(above) || owner != os.Geteuid() && os.Geteuid() != 0:
		err = fmt.Errorf("%w: %s belongs to user %d, its directory to user %d, and this is user %d: run this as the user of the server",
			ErrUnsafe, path, owner, ownerOf(above), os.Geteuid())
	}
	return owner, err
}

// listen makes the socket at path.
func listen(path string) (net.Listener, error) {
	var listener *net.UnixListener
	err := shortened(path, func(short string) (err error) {
		listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false) // the short path may be gone
	return listener, nil
}

func dialSocket(ctx context.Context, path string) (conn net.Conn, err error) {
	err = shortened(path, func(short string) (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, "unix", short)
		return err
	})
	return conn, err
}

// maxPath is the length of the longest path of a socket, on the system with the shortest.
const maxPath = 103

// shortened calls use with a path of the same file that is short enough for a socket. Only Linux
// has another one if path is too long: that by the directory's descriptor.
func shortened(path string, use func(short string) error) error {
	if len(path) <= maxPath {
		return use(path)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return use(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}
