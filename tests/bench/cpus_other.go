//go:build !linux

package main

import (
	"errors"
	"os/exec"
	"time"
)

// Only Linux can pin processes to CPUs.
func proxyCPUs() []int { return nil }

func loadCPUs() []int { return nil }

func allCPUs() []int { return nil }

func pinSelf([]int) error { return nil }

func startOn(cmd *exec.Cmd, _ []int) error { return cmd.Start() }

func cpuTimeOf(int) (time.Duration, error) {
	return 0, errors.New("the CPU time of another process can be measured only on Linux")
}

func readMachineTime() (machineTime, error) {
	return machineTime{}, errors.New("the CPU time of the machine can be measured only on Linux")
}
