//go:build !linux

package vaulttest

import "syscall"

// dieWithParent does nothing: only Linux can end the server with a test binary that is killed.
func dieWithParent() *syscall.SysProcAttr { return nil }
