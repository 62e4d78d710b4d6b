//go:build !linux

package vaulttest

import "syscall"

// dieWithParent can only be had on Linux; elsewhere a server outlives a test binary
// that is killed.
func dieWithParent() *syscall.SysProcAttr { return nil }
