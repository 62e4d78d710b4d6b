package command

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/status"
)

// A statusJSON is what `status --json` writes.
type statusJSON struct {
	Storage      string        `json:"storage"`
	At           time.Time     `json:"at"`
	Connectors   []statusRow   `json:"connectors"`
	Total        status.Counts `json:"total"`
	Problems     []problemRow  `json:"problems,omitzero"` // only with --problems
	MoreProblems *int          `json:"more_problems,omitempty"`
}

type statusRow struct {
	App       string `json:"app"`
	Connector string `json:"connector"`
	status.Counts
}

type problemRow struct {
	App        string        `json:"app"`
	ConsumerID string        `json:"consumer_id"`
	Connector  string        `json:"connector"`
	Health     record.Health `json:"health"`
	Standby    bool          `json:"standby"`
	Enabled    bool          `json:"enabled"`
	Class      record.Class  `json:"class,omitempty"`
	Code       string        `json:"code,omitempty"`
	Since      time.Time     `json:"since,omitzero"`
}

func (c *statusCommand) writeJSON(store string, at time.Time, r *status.Report) error {
	object := statusJSON{Storage: store, At: wholeSeconds(at), Connectors: make([]statusRow, 0, len(r.Rows)), Total: r.Total}
	for _, row := range r.Rows {
		object.Connectors = append(object.Connectors, statusRow{row.Application, row.Connector.String(), row.Counts})
	}
	if c.problems {
		object.Problems, object.MoreProblems = make([]problemRow, 0, len(r.Problems)), &r.MoreProblems
		for _, p := range r.Problems {
			object.Problems = append(object.Problems, problemRow{
				App: p.Key.Application, ConsumerID: p.Key.Consumer, Connector: p.Key.Connector.String(),
				Health: p.Health, Standby: p.Standby, Enabled: !p.Disabled, Class: p.Class, Code: p.Code, Since: wholeSeconds(p.Since),
			})
		}
	}
	enc := json.NewEncoder(c.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(object)
}

func (c *statusCommand) write(store string, at time.Time, r *status.Report) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s at %s\n\n", store, timeText(at))
	writeCounts(&b, r)
	if c.problems {
		b.WriteString("\n")
		writeProblems(&b, r)
	}
	_, err := io.WriteString(c.out, b.String())
	return err
}

func writeCounts(b *strings.Builder, r *status.Report) {
	rows := [][]string{{
		"APP", "CONNECTOR", "CONNECTIONS", "CALLABLE", "OK", "PENDING_REFRESH", "NEEDS_AUTH", "MISSING_SETTINGS",
		"STANDBY", "DISABLED", "EXPIRED", "EXPIRING",
	}}
	for _, row := range r.Rows {
		cells := append([]string{record.Quote(row.Application), row.Connector.String()}, countCells(&row.Counts)...)
		if row.NotConfigured > 0 {
			for i := 3; i <= 7; i++ { // state and health
				cells[i] = "-"
			}
			cells = append(cells, "the connector is not configured")
		}
		rows = append(rows, cells)
	}
	total := append([]string{"all", ""}, countCells(&r.Total)...)
	if r.Total.NotConfigured > 0 {
		total = append(total, fmt.Sprintf("%d of connectors that are not configured", r.Total.NotConfigured))
	}
	writeColumns(b, append(rows, total), 2)
}

func countCells(n *status.Counts) []string {
	var cells []string
	for _, count := range []int{
		n.Connections, n.Callable, n.OK, n.PendingRefresh, n.NeedsAuth, n.MissingSettings, n.Standby, n.Disabled, n.Expired, n.Expiring,
	} {
		cells = append(cells, strconv.Itoa(count))
	}
	return cells
}

func writeProblems(b *strings.Builder, r *status.Report) {
	if len(r.Problems) == 0 {
		b.WriteString("No connection needs attention.\n")
		return
	}
	rows := [][]string{{"HEALTH", "APP", "CONSUMER_ID", "CONNECTOR", "CLASS", "CODE", "SINCE"}}
	for _, p := range r.Problems {
		cells := []string{
			string(p.Health), record.Quote(p.Key.Application), record.Quote(p.Key.Consumer), p.Key.Connector.String(),
			cmp.Or(string(p.Class), "-"), "-", timeText(p.Since),
		}
		if p.Code != "" {
			cells[5] = record.Quote(p.Code)
		}
		var notes []string
		if p.Standby {
			notes = append(notes, "in standby")
		}
		if p.Disabled {
			notes = append(notes, "disabled")
		}
		rows = append(rows, append(cells, strings.Join(notes, ", ")))
	}
	writeColumns(b, rows, len(rows[0]))
	if r.MoreProblems > 0 {
		fmt.Fprintf(b, "and %d more\n", r.MoreProblems)
	}
}

// writeColumns writes rows in columns: the first ones aligned left, then as many right as the
// first row has. Cells beyond those are not aligned.
func writeColumns(b *strings.Builder, rows [][]string, left int) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i := range widths {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			switch {
			case i >= len(widths):
				line.WriteString(cell)
			case i < left:
				fmt.Fprintf(&line, "%-*s  ", widths[i], cell)
			default:
				fmt.Fprintf(&line, "%*s  ", widths[i], cell)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

// timeText returns a time for people, "-" if it is unknown.
func timeText(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return wholeSeconds(t).Format(time.RFC3339)
}

func wholeSeconds(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }
