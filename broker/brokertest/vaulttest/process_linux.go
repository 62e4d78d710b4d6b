package vaulttest

import "syscall"

// dieWithParent makes the server end if the test binary is killed, as by -timeout.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
