package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

func soon() time.Time { return time.Now().Add(20 * time.Millisecond) }

func TestPartsAreSelectedByName(t *testing.T) {
	t.Parallel()
	var parts selection
	if err := parts.Set("h2,stores"); err != nil {
		t.Fatal(err)
	}
	if !parts.has("stores") || !parts.has("get", "h2") || parts.has("get", "growth") {
		t.Errorf("the selection of h2 and stores is %v", parts)
	}
	for _, text := range []string{"", "h3", "get,"} {
		if err := parts.Set(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func TestBodyIsJSONOfThatLength(t *testing.T) {
	t.Parallel()
	for _, length := range []int{16, 1000, 64 << 10} {
		if got := body(length); len(got) != length || !json.Valid(got) {
			t.Errorf("body(%d) has %d bytes, begins with %.20s", length, len(got), got)
		}
	}
}

func TestTurnsAlternate(t *testing.T) {
	t.Parallel()
	var order []int
	if err := inTurns(3, 3, func(i int) error { order = append(order, i); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := []int{0, 1, 2, 2, 1, 0, 0, 1, 2}; !slices.Equal(order, want) {
		t.Errorf("the order is %v, want %v", order, want)
	}
}

func TestMemoryIsReadFromAHeapProfile(t *testing.T) {
	t.Parallel()
	const profile = "heap profile: 1: 2 [3: 4] @ heap/1048576\n\n# runtime.MemStats\n# Alloc = 1\n# HeapAlloc = 4096\n# Stack = 512 / 1024\n# GCSys = 7\n"
	if got, err := parseMemory(strings.NewReader(profile)); err != nil || got != (memory{4096, 512}) {
		t.Errorf("parseMemory = %+v, %v; want 4096 and 512", got, err)
	}
	for _, profile := range []string{"", "# HeapAlloc = many\n", "# HeapAlloc = 1\n"} {
		if got, err := parseMemory(strings.NewReader(profile)); err == nil {
			t.Errorf("parseMemory(%q) = %+v, want an error", profile, got)
		}
	}
}

func TestOtherWorkIsWhatTheProgramDidNotDo(t *testing.T) {
	t.Parallel()
	const stat = "cpu  100 20 30 4000 50 6 7 80 9 0\ncpu0 50 10 15 2000 25 3 3 40 4 0\ncpu1 50 10 15 2000 25 3 4 40 5 0\nintr 12 3\nctxt 4\n"
	got, err := parseMachineTime(stat)
	if want := (machineTime{cpus: 2, busy: 1630 * time.Millisecond, stolen: 800 * time.Millisecond}); err != nil || got != want {
		t.Fatalf("parseMachineTime = %+v, %v; want %+v", got, err, want)
	}
	for _, content := range []string{"", "cpu 1 2\n", "cpu a b c d e f g h\ncpu0 1 2 3 4 5 6 7 8\n"} {
		if got, err := parseMachineTime(content); err == nil {
			t.Errorf("parseMachineTime(%q) = %+v, want an error", content, got)
		}
	}
	for want, m := range map[string]machineTime{
		"other work: 5.0 % of the CPUs\n":                            {cpus: 2, busy: 4 * time.Second},
		"other work: 0.0 % of the CPUs\n":                            {cpus: 2, busy: 2 * time.Second},
		"other work: 0.0 % of the CPUs; taken by the host: 10.0 %\n": {cpus: 2, busy: 3 * time.Second, stolen: 2 * time.Second},
	} {
		if got := m.describe(10*time.Second, 3*time.Second); got != want {
			t.Errorf("describe of %+v = %q, want %q", m, got, want)
		}
	}
}

func TestRatiosCompareNeighbours(t *testing.T) {
	t.Parallel()
	turns := func(counts ...int) (all []*turn) {
		for _, n := range counts {
			all = append(all, &turn{requests: n, elapsed: time.Second})
		}
		return all
	}
	if got, want := ratios(turns(10, 30, 20), turns(10, 10, 10), (*turn).throughput), "2.000 (1.000 to 3.000)"; got != want {
		t.Errorf("ratios = %s, want %s", got, want)
	}
}
