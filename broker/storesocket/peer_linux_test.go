package storesocket

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
)

// Another user who gets past the modes is turned away all the same.
func TestAnotherUserIsTurnedAway(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can act as another user")
	}
	dir := privateDir(t, 0)
	log := serve(t, dir, &brokertest.MemStore{})
	path := filepath.Join(dir, Name)
	if err := errors.Join(os.Chmod(path, 0o666), os.Chmod(dir, 0o711), os.Chmod(filepath.Dir(dir), 0o711)); err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[int]bool{0: true, 65534: false} {
		if got, err := answersUser(path, uid); err != nil || got != want {
			t.Errorf("user %d is answered: %t, %v; want %t", uid, got, err, want)
		}
	}
	if !strings.Contains(log.String(), "another user has tried to use the store's socket") || !strings.Contains(log.String(), "uid=65534") {
		t.Errorf("the log has nothing of it: %s", log)
	}
}

// answersUser reports whether the server at a socket answers a user.
func answersUser(path string, uid int) (answers bool, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		// The dialer's own system call changes the user of this thread alone.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			err = errno
			return
		}
		answers, err = answersHere(path)
	}()
	<-done
	return answers, err
}

func answersHere(path string) (bool, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return false, err
	}
	const request = "POST /check HTTP/1.1\r\nHost: store\r\nContent-Length: 10\r\n\r\n{\"key\":{}}"
	if _, err := unix.Write(fd, []byte(request)); err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		return false, err
	}
	answer := make([]byte, 64)
	n, err := unix.Read(fd, answer)
	if errors.Is(err, unix.ECONNRESET) {
		return false, nil
	}
	return strings.HasPrefix(string(answer[:max(n, 0)]), "HTTP/1.1 200"), err
}
