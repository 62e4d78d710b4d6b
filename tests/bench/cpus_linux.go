package main

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// machine lists the CPUs that this process may use.
var machine = func() (cpus []int) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil
	}
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus
}()

// proxyCPUs returns one half of the CPUs. A single CPU is shared with loadCPUs.
func proxyCPUs() []int { return machine[len(machine)/2:] }

// loadCPUs returns the other half.
func loadCPUs() []int {
	if len(machine) < 2 {
		return machine
	}
	return machine[:len(machine)/2]
}

// pin restricts a thread (0: the current one) to some CPUs.
func pin(thread int, cpus []int) error {
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	return unix.SchedSetaffinity(thread, &set)
}

// allCPUs returns the CPUs that this process could use when it started.
func allCPUs() []int { return machine }

// pinSelf restricts this process to some CPUs. New threads and processes inherit the affinity
// of the threads that start them.
func pinSelf(cpus []int) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		id, err := strconv.Atoi(task.Name())
		if err != nil {
			return err
		}
		if err := pin(id, cpus); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// startOn starts a process on some CPUs. It inherits the affinity of the thread that starts it.
func startOn(cmd *exec.Cmd, cpus []int) error {
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	started := make(chan error)
	go func() {
		// The thread is never unlocked, so it would end with its goroutine. That must not end
		// before the process: Pdeathsig is sent when the thread ends.
		runtime.LockOSThread()
		err := pin(0, cpus)
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err == nil {
			select {}
		}
	}()
	return <-started
}

// cpuTimeOf returns the CPU time of all threads of a process. The clock's id is computed as in
// clock_getcpuclockid(3).
func cpuTimeOf(pid int) (time.Duration, error) {
	const schedClock = 2
	var now unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedClock), &now); err != nil {
		return 0, err
	}
	return time.Duration(now.Nano()), nil
}

func readMachineTime() (machineTime, error) {
	content, err := os.ReadFile("/proc/stat")
	if err != nil {
		return machineTime{}, err
	}
	return parseMachineTime(string(content))
}
