//go:build !linux

package tests

import "syscall"

// dieWithParent can only be had on Linux; elsewhere a process outlives a test binary
// that is killed.
func dieWithParent() *syscall.SysProcAttr { return nil }
