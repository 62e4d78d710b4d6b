//go:build !linux

package child

import "syscall"

// DieWithParent does nothing: only Linux can end a process with one that is killed.
func DieWithParent() *syscall.SysProcAttr { return nil }
