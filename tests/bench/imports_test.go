package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
)

func TestFilesToImportHaveNewConnections(t *testing.T) {
	t.Parallel()
	l := newImportLab("", t.TempDir())
	path := filepath.Join(l.dir, "connections.ndjson")
	seen := make(map[string]bool)
	for _, rows := range []int{3, 2} {
		if err := l.writeFile(path, rows); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(string(content), "\n"); got != rows {
			t.Errorf("the file has %d rows, want %d", got, rows)
		}
		for line := range strings.Lines(string(content)) {
			row, err := transfer.ParseRow([]byte(line))
			if err != nil {
				t.Fatal(err)
			}
			seen[row.Key().String()] = true
		}
	}
	if len(seen) != 5 {
		t.Errorf("two files of 5 rows have %d connections", len(seen))
	}
}

func TestReportOfAnImportMustCountAllRowsAsCreated(t *testing.T) {
	t.Parallel()
	const report = "Import\n\nCREATED  UPDATED  KEPT  REFUSED  CONNECTOR\n  7  0  0  0  crm/bench\n  7  0  0  0  all\n"
	if !isReportOf(report, 7) || isReportOf(report, 8) || isReportOf(strings.ReplaceAll(report, "7  0", "6  1"), 7) {
		t.Error("the report is misread")
	}
}

func TestResultOfImportsHasTheMediansOfTheTurns(t *testing.T) {
	t.Parallel()
	turns := func(rows int, cpu time.Duration) []*turn {
		return []*turn{{requests: rows, elapsed: time.Second, cpu: cpu, storeCPU: 2 * cpu, commandCPU: 3 * cpu}}
	}
	line := (&importLab{store: 1}).result("Vault: import", turns(100, 10*time.Millisecond), turns(200, 5*time.Millisecond))
	if got, want := strings.Join(strings.Fields(line), " "), "Vault: import 100 200 0.500 (0.500 to 0.500) 300.0 100.0 200.0 25.0 50.0"; got != want {
		t.Errorf("the result is %q, want %s", got, want)
	}
}
