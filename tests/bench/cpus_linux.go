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

// machine is the CPUs that this process may use.
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

// proxyCPUs are half of the machine, and loadCPUs the other: of a single one, each has all.
func proxyCPUs() []int { return machine[len(machine)/2:] }

func loadCPUs() []int {
	if len(machine) < 2 {
		return machine
	}
	return machine[:len(machine)/2]
}

// pin keeps a thread (0: this one) on some CPUs.
func pin(thread int, cpus []int) error {
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	return unix.SchedSetaffinity(thread, &set)
}

// pinLoad keeps this process, which makes the load, away from the proxy's CPUs: its
// threads are those that there are now, and those that they start.
func pinLoad() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		id, err := strconv.Atoi(task.Name())
		if err != nil {
			return err
		}
		if err := pin(id, loadCPUs()); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// startOn starts a process that runs on these CPUs alone: it inherits the affinity of
// the thread that starts it.
func startOn(cmd *exec.Cmd, cpus []int) error {
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	started := make(chan error)
	go func() {
		// The thread ends with its goroutine, since it is not unlocked, but not before the
		// process: Pdeathsig goes by the thread.
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

// cpuTimeOf returns how much CPU time a process has used, all its threads together.
// The clock's id is that of clock_getcpuclockid(3).
func cpuTimeOf(pid int) (time.Duration, error) {
	const schedClock = 2
	var now unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedClock), &now); err != nil {
		return 0, err
	}
	return time.Duration(now.Nano()), nil
}
