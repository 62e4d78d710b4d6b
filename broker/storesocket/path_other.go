//go:build !unix

package storesocket

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// checkDir returns an error: files have no owners here that protect a socket.
func checkDir(string) error {
	return fmt.Errorf("%w: this system does not protect sockets", ErrUnsafe)
}

func checkSocket(string, string) (int, error) { return 0, ErrNotServed }

func listen(string) (net.Listener, error) { return nil, errors.ErrUnsupported }

func dialSocket(context.Context, string) (net.Conn, error) { return nil, errors.ErrUnsupported }
