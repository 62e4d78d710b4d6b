//go:build !linux

package main

import (
	"errors"
	"os/exec"
	"time"
)

// Elsewhere processes go where the system puts them.
func proxyCPUs() []int { return nil }

func loadCPUs() []int { return nil }

func pinLoad() error { return nil }

func startOn(cmd *exec.Cmd, _ []int) error { return cmd.Start() }

func cpuTimeOf(int) (time.Duration, error) {
	return 0, errors.New("what another process uses of the CPU can be measured on Linux only")
}
