//go:build linux || darwin || freebsd

package storesocket

import (
	"fmt"
	"net"
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
	var failed error
	err = raw.Control(func(fd uintptr) { uid, failed = userOf(int(fd)) })
	if err == nil {
		err = failed
	}
	if err != nil {
		return -1, true, err
	}
	return uid, true, nil
}
