package tests

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
	"github.com/tokenbroker/caddy-token-broker/broker/transfer/transfertest"
)

// A migration is a generated file of connections, and what is expected of it.
type migration struct {
	deployment *deployment
	format     string
	generator  *transfertest.Generator
	path       string
	kinds      map[int]transfertest.Kind // by the number of the row
}

// newMigration writes a file of rows in a format.
func newMigration(t *testing.T, d *deployment, format string, rows int) *migration {
	t.Helper()
	m := &migration{
		deployment: d, format: format, generator: transfertest.New(format, uint64(crc32.ChecksumIEEE([]byte(format)))), path: filepath.Join(t.TempDir(), "rows"),
		kinds: make(map[int]transfertest.Kind),
	}
	if rows < 1000 {
		m.generator.BadShare = 0.2 // all kinds are there
	}
	var file bytes.Buffer
	file.WriteString(m.generator.Header())
	for number := 1; number <= rows; number++ {
		line, kind := m.generator.Next()
		file.WriteString(line)
		m.kinds[number] = kind
	}
	if err := os.WriteFile(m.path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return m
}

// command returns the command that imports the file into the broker at a URL.
func (m *migration) command(to string, args ...string) *exec.Cmd {
	args = append([]string{
		"import", "--to", to, "--app", application, "--format", m.format, "--min-lifetime", transfertest.MinLifetime.String(),
	}, args...)
	o := m.generator.Options()
	for value, id := range o.Connectors {
		args = append(args, "--connector", value+"="+id.String())
	}
	cmd := m.deployment.command(append(args, m.path)...)
	cmd.Env = append(cmd.Env, "TOKEN_BROKER_API_KEY="+m.deployment.apiKey, "NANGO_ENCRYPTION_KEY="+o.EncryptionKey.Reveal())
	return cmd
}

// run runs a command that imports the file, and returns what it printed.
func (m *migration) run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if text := out.String(); strings.Contains(text, "canary-") {
		t.Errorf("a token is printed: %s", text)
	}
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return out.String()
}

// refused returns the numbers of the rows that are refused, stored how many are not.
func (m *migration) refused() (refused []int, stored int) {
	for number, kind := range m.kinds {
		if kind.IsStored() {
			stored++
		} else {
			refused = append(refused, number)
		}
	}
	slices.Sort(refused)
	return refused, stored
}

// wantRefused checks that the file of refused rows has exactly those.
func (m *migration) wantRefused(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	for line := range strings.Lines(string(text)) {
		digits, _, _ := strings.Cut(strings.TrimPrefix(line, `{"row":`), ",")
		number, err := strconv.Atoi(digits)
		if err != nil {
			t.Fatalf("%.60s: %v", line, err)
		}
		got = append(got, number)
	}
	slices.Sort(got)
	if want, _ := m.refused(); !slices.Equal(got, want) {
		t.Errorf("the rows %v were refused, want %v", got, want)
	}
}

// verified matches the first line of verify.
var verified = regexp.MustCompile(`(?m)^(\d+) rows: (\d+) same, (\d+) different, (\d+) missing(, \d+ failed)?$`)

// wantVerified compares what is stored with the file, row by row. A row is different if a later
// one is of the same connection, missing if the broker has refused it, and failed if it has no
// such connector.
func (m *migration) wantVerified(t *testing.T, to string) {
	t.Helper()
	rows := filepath.Join(t.TempDir(), "canonical")
	m.run(t, m.command(to, "--rows-to", rows))
	sent, different, missing, failed := 0, 0, 0, 0
	for _, kind := range m.kinds {
		switch {
		case kind.Refused(m.format) != "", kind.Refused("canonical") != "":
			continue
		case kind == transfertest.Duplicate:
			different++
		case kind.Broker() == "ConnectorNotFoundError":
			failed++
		case kind.Broker() != "":
			missing++
		}
		sent++
	}
	cmd := m.deployment.command("verify", "--to", to, "--app", application, rows)
	cmd.Env = append(cmd.Env, "TOKEN_BROKER_API_KEY="+m.deployment.apiKey)
	report := m.run(t, cmd)
	want := fmt.Sprintf("%d rows: %d same, %d different, %d missing", sent, sent-different-missing-failed, different, missing)
	if failed > 0 {
		want += fmt.Sprintf(", %d failed", failed)
	}
	if got := verified.FindString(report); got != want {
		t.Errorf("verify: got %q, want %q\n%s", got, want, report)
	}
	t.Log("verify: " + want)
}

// total matches the sums of a report.
var total = regexp.MustCompile(`(?m)^ *(\d+) +(\d+) +(\d+) +(\d+) +all$`)

// sums returns how many rows a report says were created, updated, kept and refused.
func sums(t *testing.T, report string) [4]int {
	t.Helper()
	match := total.FindStringSubmatch(report)
	if match == nil {
		t.Fatalf("no sums in the report\n%s", report)
	}
	var n [4]int
	for i := range n {
		n[i], _ = strconv.Atoi(match[i+1]) // digits
	}
	return n
}

// verbose matches what --verbose prints of a row.
var verbose = regexp.MustCompile(`(?m)^row (\d+)[^:]*: (created|updated|kept|refused|skipped|warning)([^\n]*)$`)

// wantNamed checks that the output of a dry run names what is wrong with each row.
func (m *migration) wantNamed(t *testing.T, report string) {
	t.Helper()
	named := make(map[int]string)
	for _, match := range verbose.FindAllStringSubmatch(report, -1) {
		number, _ := strconv.Atoi(match[1]) // digits
		named[number] += match[2] + match[3] + "\n"
	}
	for number, kind := range m.kinds {
		got := named[number]
		isRefused, isDoubted := strings.Contains(got, "refused: "), strings.Contains(got, "warning: ")
		if isRefused == kind.IsStored() || kind.IsStored() && isDoubted != (kind.Doubt() != "") {
			t.Errorf("row %d is %q: the dry run says %q", number, kind, got)
		}
		if kind.Refused(m.format) == "" && !strings.Contains(got, kind.Broker()) {
			t.Errorf("row %d is %q: the dry run says %q, want %s", number, kind, got, kind.Broker())
		}
	}
	all := slices.Collect(maps.Values(m.kinds))
	for _, kind := range transfertest.Kinds() {
		if reason := kind.Refused(m.format); reason != "" && slices.Contains(all, kind) && !strings.Contains(report, string(reason)) {
			t.Errorf("the report does not count %q", reason)
		}
	}
}

// TestAWrongNangoKeyIsOneError: nothing of the dump is imported.
func TestAWrongNangoKeyIsOneError(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, noProvider).onDisk()
	p := d.start(t)
	m := newMigration(t, d, "nango-db", 50)
	cmd := m.command(p.apiURL(""))
	cmd.Env = append(cmd.Env, "NANGO_ENCRYPTION_KEY="+base64.StdEncoding.EncodeToString(make([]byte, 32)))
	report := m.run(t, cmd)
	if strings.Count(report, "NANGO_ENCRYPTION_KEY does not decrypt") != 1 || total.MatchString(report) {
		t.Errorf("got\n%s", report)
	}
}

// TestEachFormatIsImported: a dry run names each bad row and stores nothing, an import stores
// the others, and one more keeps them.
func TestEachFormatIsImported(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, noProvider).onDisk()
	p := d.start(t)
	for _, format := range transfer.Formats() {
		t.Run(format.Name, func(t *testing.T) {
			m := newMigration(t, d, format.Name, 200)
			report := m.run(t, m.command(p.apiURL(""), "--dry-run", "--verbose"))
			m.wantNamed(t, report)
			m.wantRefused(t, m.path+".dry-run.ndjson")
			refused, stored := m.refused()
			report = m.run(t, m.command(p.apiURL("")))
			m.wantRefused(t, m.path+".refused.ndjson")
			if got := sums(t, report); got[2] != 0 || got[0]+got[1] != stored || got[3] != len(refused) {
				t.Errorf("got %v, want %d stored and %d refused\n%s", got, stored, len(refused), report)
			}
			if got := sums(t, m.run(t, m.command(p.apiURL("")))); got != [4]int{2: stored, 3: len(refused)} {
				t.Errorf("importing again: got %v, want all %d kept", got, stored)
			}
		})
	}
}
