package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// An otherWork measures what the machine does beside this program and its processes.
type otherWork struct {
	processes []int
	begun     time.Time
	own       time.Duration
	machine   machineTime
	err       error // why it cannot be measured
}

// A machineTime is what the kernel says of the time of all CPUs since it booted.
type machineTime struct {
	cpus   int
	busy   time.Duration
	stolen time.Duration // the host gave it to others
}

// startOtherWork begins to measure, given the processes that belong to this program. They must
// not end before the measurement.
func startOtherWork(processes []int) *otherWork {
	w := &otherWork{processes: append([]int{os.Getpid()}, processes...)}
	w.begun, w.own, w.machine, w.err = w.now()
	return w
}

func (w *otherWork) now() (now time.Time, own time.Duration, all machineTime, err error) {
	if all, err = readMachineTime(); err != nil {
		return now, own, all, err
	}
	for _, process := range w.processes {
		used, err := cpuTimeOf(process)
		if err != nil {
			return now, own, all, err
		}
		own += used
	}
	return time.Now(), own, all, nil
}

// stop returns a line about what the machine did, empty if it does not say.
func (w *otherWork) stop() string {
	if w.err != nil {
		return ""
	}
	now, own, all, err := w.now()
	if err != nil {
		return ""
	}
	all.busy -= w.machine.busy
	all.stolen -= w.machine.stolen
	return all.describe(now.Sub(w.begun), own-w.own)
}

// describe says which share of the CPUs was busy with something else than this program, which
// used them for a time.
func (m machineTime) describe(elapsed, own time.Duration) string {
	percent := func(d time.Duration) float64 { return 100 * float64(max(0, d)) / (float64(elapsed) * float64(m.cpus)) }
	line := fmt.Sprintf("other work: %.1f %% of the CPUs", percent(m.busy-own))
	if stolen := percent(m.stolen); stolen >= 0.05 {
		line += fmt.Sprintf("; taken by the host: %.1f %%", stolen)
	}
	return line + "\n"
}

// ticks is how many of the units that the kernel counts time in are one second (USER_HZ).
const ticks = 100

// parseMachineTime parses the content of /proc/stat.
func parseMachineTime(content string) (m machineTime, err error) {
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) < 9 || !strings.HasPrefix(fields[0], "cpu") {
			continue
		}
		if fields[0] != "cpu" {
			m.cpus++
			continue
		}
		// user, nice, system, idle, iowait, irq, softirq, steal: see proc_stat(5).
		var spent [8]time.Duration
		for i := range spent {
			n, err := strconv.ParseInt(fields[i+1], 10, 64)
			if err != nil {
				return m, err
			}
			spent[i] = time.Duration(n) * time.Second / ticks
		}
		m.busy = spent[0] + spent[1] + spent[2] + spent[5] + spent[6]
		m.stolen = spent[7]
	}
	if m.cpus == 0 || m.busy == 0 {
		return m, errors.New("/proc/stat does not have the time of the CPUs")
	}
	return m, nil
}
