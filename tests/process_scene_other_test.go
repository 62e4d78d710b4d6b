//go:build !linux

package tests

import "syscall"

// dieWithParent does nothing: only Linux can end a process with a test binary that is killed.
func dieWithParent() *syscall.SysProcAttr { return nil }
