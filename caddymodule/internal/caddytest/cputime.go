//go:build unix

package caddytest

import "syscall"

// CPUTime returns how much CPU time this process has used, in nanoseconds.
func CPUTime() int64 {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage) // cannot fail
	return usage.Utime.Nano() + usage.Stime.Nano()
}
