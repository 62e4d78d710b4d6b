//go:build darwin || freebsd

package storesocket

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// peer returns the user of the process at the other end. known is false if the system does not
// tell.
func peer(conn net.Conn) (uid int, known bool, err error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return -1, false, fmt.Errorf("%T is not a socket", conn)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return -1, false, err
	}
	uid = -1
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
		if failed = err; err == nil {
			uid = int(cred.Uid)
		}
	})
	if err == nil {
		err = failed
	}
	return uid, true, err
}
