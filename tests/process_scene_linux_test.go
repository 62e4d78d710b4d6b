package tests

import "syscall"

// dieWithParent makes a process end if the test binary is killed, as by -timeout.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
