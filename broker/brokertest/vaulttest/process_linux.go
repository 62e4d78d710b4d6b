package vaulttest

import "syscall"

// dieWithParent makes the server end with the test binary, even if that is killed, as -timeout
// does.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
