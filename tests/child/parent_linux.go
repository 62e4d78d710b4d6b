package child

import "syscall"

// DieWithParent makes a process end with the one that starts it, even if that is killed, as
// go test -timeout does.
func DieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
