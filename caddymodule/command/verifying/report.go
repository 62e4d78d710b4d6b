package verifying

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// A tally counts rows.
type tally struct {
	mu      sync.Mutex
	rows    int            // guarded by mu
	results map[string]int // guarded by mu; by result
	health  map[string]int // guarded by mu; of connections that exist
	standby int            // guarded by mu
	probes  map[string]int // guarded by mu; by the class of the response
	reasons []*reason      // guarded by mu; why rows are unreadable, the first maxReasons
}

// A reason is why rows are unreadable.
type reason struct {
	text  string
	count int
	lines []string // numbers of the first maxLines
}

const (
	maxReasons = 5
	maxLines   = 5
)

func newTally() *tally {
	return &tally{results: make(map[string]int), health: make(map[string]int), probes: make(map[string]int)}
}

func (t *tally) add(it *item) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows++
	t.results[it.Result]++
	if it.Result == resultUnreadable {
		t.addReason(it)
	}
	if it.exists() {
		t.health[it.Health]++
	}
	if it.Standby {
		t.standby++
	}
	if it.Probe != "" {
		t.probes[it.Probe]++
	}
}

// addReason notes why a row is unreadable. Call it with mu locked.
func (t *tally) addReason(it *item) {
	i := slices.IndexFunc(t.reasons, func(r *reason) bool { return r.text == it.Error })
	if i < 0 {
		if len(t.reasons) == maxReasons {
			return
		}
		i, t.reasons = len(t.reasons), append(t.reasons, &reason{text: it.Error})
	}
	r := t.reasons[i]
	if r.count++; len(r.lines) < maxLines {
		r.lines = append(r.lines, strconv.Itoa(it.line))
	}
}

// hasCompared reports whether the broker has compared a row.
func (t *tally) hasCompared() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.results[resultSame]+t.results[resultDifferent]+t.results[resultMissing] > 0
}

// printReasons writes why rows are unreadable.
func (t *tally) printReasons(out io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	others := t.results[resultUnreadable]
	for _, r := range t.reasons {
		others -= r.count
		more := ""
		if r.count > len(r.lines) {
			more = ", ..."
		}
		fmt.Fprintf(out, "unreadable: %d: %s (line %s%s)\n", r.count, r.text, strings.Join(r.lines, ", "), more)
	}
	if others > 0 {
		fmt.Fprintf(out, "unreadable: %d for other reasons\n", others)
	}
}

// print writes the counts.
func (t *tally) print(out io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(out, "%d rows: %d same, %d different, %d missing", t.rows, t.results[resultSame], t.results[resultDifferent], t.results[resultMissing])
	for _, result := range []string{resultFailed, resultUnreadable} {
		if n := t.results[result]; n > 0 {
			fmt.Fprintf(out, ", %d %s", n, result)
		}
	}
	fmt.Fprintf(out, "\nconnections: %d healthy, %d parked (needs_auth), %d in standby", t.health["ok"], t.health["needs_auth"], t.standby)
	for _, health := range slices.Sorted(maps.Keys(t.health)) {
		if health != "ok" && health != "needs_auth" {
			fmt.Fprintf(out, ", %d %s", t.health[health], health)
		}
	}
	fmt.Fprintln(out)
	if len(t.probes) > 0 {
		var counts []string
		for _, class := range slices.Sorted(maps.Keys(t.probes)) {
			counts = append(counts, fmt.Sprintf("%d %s", t.probes[class], class))
		}
		fmt.Fprintf(out, "probes: %s\n", strings.Join(counts, ", "))
	}
}

// verdict returns an error unless all rows are as in the file.
func (t *tally) verdict() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch others := t.rows - t.results[resultSame]; {
	case t.rows == 0:
		return errors.New("the file has no rows")
	case t.rows == t.results[resultUnreadable]:
		return errors.New("the file is not NDJSON of canonical rows: make it with `token-broker import --rows-to`")
	case others > 0:
		return fmt.Errorf("%d of %d rows are not in the broker as they are in the file", others, t.rows)
	}
	return nil
}

// results is the file of rows that are not as in the file, one JSON object a line, without
// tokens. A nil results writes nothing.
type results struct {
	mu   sync.Mutex
	file *os.File
	err  error // guarded by mu; the first
}

// createResults creates the file, or empties it. Only its owner can read it: it has the names
// of customers.
func createResults(path string) (*results, error) {
	if path == "" {
		return nil, nil
	}
	const mode = 0o600
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return nil, fmt.Errorf("creating the file for results: %w", err)
	}
	if err := file.Chmod(mode); err != nil { // it may have been there
		return nil, errors.Join(fmt.Errorf("creating the file for results: %w", err), file.Close())
	}
	return &results{file: file}, nil
}

// add writes a line for the row, unless it is as in the file and a probe did not fail.
func (r *results) add(it *item) {
	if r == nil || it.Result == resultSame && (it.Probe == "" || it.Probe == "2xx" || it.Probe == probeUnknown) {
		return
	}
	line, err := json.Marshal(struct {
		Line       int    `json:"line"`
		ConsumerID string `json:"consumer_id,omitempty"`
		UnifiedAPI string `json:"unified_api,omitempty"`
		ServiceID  string `json:"service_id,omitempty"`
		Result     string `json:"result"`
		State      string `json:"state,omitempty"`
		Health     string `json:"health,omitempty"`
		Standby    bool   `json:"standby,omitempty"`
		Probe      int    `json:"probe_status,omitempty"`
		Error      string `json:"error,omitempty"`
	}{it.line, it.ConsumerID, it.UnifiedAPI, it.ServiceID, it.Result, it.State, it.Health, it.Standby, it.ProbeStatus, it.Error})
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil && r.err == nil {
		_, err = r.file.Write(append(line, '\n'))
	}
	if r.err == nil {
		r.err = err
	}
}

func (r *results) close() error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := errors.Join(r.err, r.file.Close()); err != nil {
		return fmt.Errorf("writing the file for results: %w", err)
	}
	return nil
}
