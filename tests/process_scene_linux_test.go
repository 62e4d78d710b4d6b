package tests

import "syscall"

// dieWithParent makes a process end with the test binary, even if that is killed, as -timeout
// does.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
