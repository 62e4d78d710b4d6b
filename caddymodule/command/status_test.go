package command

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// statusStore makes a store with connections to a configured connector and one that is not, and
// returns its directory and a configuration.
func statusStore(t *testing.T) (dir, config string) {
	t.Helper()
	dir = t.TempDir()
	s := openEmbedded(t, dir)
	for _, c := range []struct {
		consumer, service string
		change            func(*record.Record)
	}{
		{"ann", "hubspot", func(*record.Record) {}},
		{"bob\u202e", "hubspot", func(rec *record.Record) {
			answer := record.Answer{Class: record.ClassPermanent, Code: "invalid_grant", Detail: "of at-secret"}
			rec.Fail(answer, record.Policy{}, time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC))
		}},
		{"carl", "hubspot", func(rec *record.Record) { rec.Standby, rec.Credentials.Expiry = true, time.Unix(1767366245, 0) }},
		{"dora", "salesforce", func(rec *record.Record) { rec.Enabled = false }},
	} {
		rec := record.New(record.Key{Application: "app", Consumer: c.consumer, Connector: connector.ID{UnifiedAPI: "crm", ServiceID: c.service}}, nil, time.Now())
		rec.Credentials = &record.Credentials{AccessToken: secret.New("at-secret"), RefreshToken: secret.New("rt-secret")}
		c.change(rec)
		if _, err := s.Save(t.Context(), rec, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	config = filepath.Join(t.TempDir(), "Caddyfile")
	text := "{\ntoken_broker {\nstorage embedded " + dir + "\nconnector crm/hubspot {\nclient_id {env.NONE}\nclient_secret {env.NONE}\n}\n}\n}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, config
}

// runStatus runs the command and returns its output.
func runStatus(t *testing.T, c statusCommand, args ...string) (string, error) {
	t.Helper()
	var out, messages bytes.Buffer
	c.adapter, c.out, c.messages = "caddyfile", &out, &messages
	err := c.run(t.Context(), args)
	if text := out.String() + messages.String(); strings.Contains(text, "-secret") || err != nil && strings.Contains(err.Error(), "-secret") {
		t.Errorf("the output has a secret: %v\n%s", err, text)
	}
	return out.String(), err
}

// words returns a text with single spaces, so that the widths of columns do not matter.
func words(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return b.String()
}

const statusTable = `APP CONNECTOR CONNECTIONS CALLABLE OK PENDING_REFRESH NEEDS_AUTH MISSING_SETTINGS STANDBY DISABLED EXPIRED EXPIRING
app crm/hubspot 3 2 1 1 1 0 1 0 1 0
app crm/salesforce 1 - - - - - 0 1 0 0 the connector is not configured
all 4 2 1 1 1 0 1 1 1 0 1 of connectors that are not configured
`

func TestStatusShowsATable(t *testing.T) {
	t.Parallel()
	dir, config := statusStore(t)
	out, err := runStatus(t, statusCommand{config: config, problems: true})
	if err != nil {
		t.Fatal(err)
	}
	const problems = `
HEALTH APP CONSUMER_ID CONNECTOR CLASS CODE SINCE
needs_auth app "bob\u202e" crm/hubspot permanent invalid_grant 2026-01-02T03:04:05Z
pending_refresh app carl crm/hubspot - - 2026-01-02T15:04:05Z in standby
`
	first, rest, _ := strings.Cut(out, "\n\n")
	if !strings.HasPrefix(first, "the embedded store in "+dir+" at 2") {
		t.Errorf("the first line is %q", first)
	}
	if got := words(rest); got != statusTable+problems {
		t.Errorf("got\n%s\nwant\n%s", got, statusTable+problems)
	}
	header, row, _ := strings.Cut(rest, "\n")
	if strings.Index(header, "CALLABLE")+len("CALLABLE") != strings.Index(row, " 2 ")+2 {
		t.Errorf("the columns are not aligned:\n%s", rest)
	}
}

func TestStatusWritesJSON(t *testing.T) {
	t.Parallel()
	_, config := statusStore(t)
	out, err := runStatus(t, statusCommand{config: config, json: true, connector: "crm/hubspot", app: "app"})
	var plain map[string]any
	if err != nil || json.Unmarshal([]byte(out), &plain) != nil || len(plain) != 4 {
		t.Fatalf("got %v\n%s\nwant an object with four members", err, out)
	}
	if out, err = runStatus(t, statusCommand{config: config, json: true, problems: true}); err != nil {
		t.Fatal(err)
	}
	var object struct {
		Connectors    []map[string]any
		Total         map[string]int
		Problems      []map[string]any
		More_Problems *int
	}
	if err := json.Unmarshal([]byte(out), &object); err != nil {
		t.Fatal(err)
	}
	total := object.Total
	if len(total) != 11 || total["connections"] != 4 || total["ok"]+total["pending_refresh"]+total["needs_auth"]+total["missing_settings"]+total["not_configured"] != 4 {
		t.Errorf("the total is %v", total)
	}
	if c := object.Connectors; len(c) != 2 || c[0]["app"] != "app" || c[0]["connector"] != "crm/hubspot" || c[0]["callable"] != 2.0 {
		t.Errorf("got the connectors %v", c)
	}
	if p := object.Problems; len(p) != 2 || p[0]["consumer_id"] != "bob\u202e" || p[0]["since"] != "2026-01-02T03:04:05Z" || p[1]["standby"] != true || p[1]["class"] != nil {
		t.Errorf("got the problems %v", p)
	}
	if object.More_Problems == nil || *object.More_Problems != 0 {
		t.Errorf("more_problems is missing:\n%s", out)
	}
}

func TestStatusReadsAStoreThatIsOpen(t *testing.T) {
	t.Parallel()
	dir, config := statusStore(t)
	serveEmbedded(t, dir)
	out, err := runStatus(t, statusCommand{config: config})
	if err != nil {
		t.Fatal(err)
	}
	if _, rest, _ := strings.Cut(out, "\n\n"); words(rest) != statusTable {
		t.Errorf("got\n%s\nwant\n%s", words(rest), statusTable)
	}
	if err := os.Chmod(filepath.Join(dir, "operator.sock"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := runStatus(t, statusCommand{config: config}); err == nil || !strings.Contains(err.Error(), "they must have 0600 and 0700") {
		t.Errorf("with a socket that others can use: %v", err)
	}
}

func TestStatusRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	dir, config := statusStore(t)
	empty := filepath.Join(t.TempDir(), "nothing")
	for name, test := range map[string]struct {
		command statusCommand
		args    []string
		want    string
	}{
		"no configuration":  {statusCommand{}, nil, "--config"},
		"a word":            {statusCommand{config: config}, []string{"all"}, "got all"},
		"no connector":      {statusCommand{config: config, connector: "hubspot"}, nil, "hubspot"},
		"no such Caddyfile": {statusCommand{config: "/nowhere/Caddyfile"}, nil, "/nowhere/Caddyfile"},
		"no such app":       {statusCommand{config: config, app: "nope"}, nil, "no connection of the application nope"},
		"no such connector": {statusCommand{config: config, connector: "crm/nope", json: true}, nil, "no connection to the connector crm/nope"},
		"no store":          {statusCommand{config: configOf(t, empty)}, nil, "connections.db does not exist"},
	} {
		if out, err := runStatus(t, test.command, test.args...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v\n%s\nwant %q", name, err, out, test.want)
		}
	}
	if _, err := os.Stat(empty); err == nil {
		t.Error("a store was created")
	}
	if err := os.Remove(filepath.Join(dir, "key.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := runStatus(t, statusCommand{config: config}); err == nil || !strings.Contains(err.Error(), "key.json does not exist") {
		t.Errorf("without a key: %v", err)
	}
}

// What the journal has makes the numbers no less useful.
func TestStatusMentionsAJournalWithEntries(t *testing.T) {
	t.Parallel()
	_, config := statusStore(t)
	leaveJournalEntry(t, config)
	var out, messages bytes.Buffer
	c := statusCommand{config: config, adapter: "caddyfile", out: &out, messages: &messages}
	if err := c.run(t.Context(), nil); err != nil || !strings.Contains(out.String(), "crm/hubspot") {
		t.Errorf("got %v\n%s", err, &out)
	}
	if !strings.Contains(messages.String(), "has 1 token responses that the store has not taken yet") {
		t.Errorf("the messages are %q", &messages)
	}
}

func TestStatusShowsProgressOnlyIfItTakesLong(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		terminal bool
		takes    time.Duration
		want     string
	}{
		{true, 900 * time.Millisecond, ""},
		{true, 1900 * time.Millisecond, "\r\x1b[K7 records read\r\x1b[K"},
		{false, 1900 * time.Millisecond, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			var messages bytes.Buffer
			c := statusCommand{messages: &messages, terminal: test.terminal}
			var read atomic.Int64
			read.Store(7)
			done := c.showProgress(&read)
			time.Sleep(test.takes)
			done()
			if got := messages.String(); got != test.want {
				t.Errorf("after %v on a terminal (%t): got %q, want %q", test.takes, test.terminal, got, test.want)
			}
		})
	}
}

func TestStatusCanBeInterrupted(t *testing.T) {
	t.Parallel()
	_, config := statusStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := statusCommand{config: config, adapter: "caddyfile", out: new(bytes.Buffer), messages: new(bytes.Buffer)}
	if err := c.run(ctx, nil); err == nil || err.Error() != "interrupted" {
		t.Errorf("got %v", err)
	}
}

func TestStatusIsASubcommand(t *testing.T) {
	t.Parallel()
	if _, ok := caddycmd.Commands()["status"]; !ok {
		t.Error("the subcommand status is not registered")
	}
}
