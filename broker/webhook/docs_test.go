package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// page returns docs/events.md, the documentation for receivers.
func page(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// blockAfter returns the fenced block after an HTML comment of the page.
func blockAfter(t *testing.T, comment string) string {
	t.Helper()
	_, rest, found := strings.Cut(page(t), "<!-- "+comment+" -->\n```")
	_, rest, fenced := strings.Cut(rest, "\n")
	block, _, ends := strings.Cut(rest, "```\n")
	if !found || !fenced || !ends {
		t.Fatalf("docs/events.md has no block after <!-- %s -->", comment)
	}
	return block
}

// pageEvent is the event that the page shows.
func pageEvent() *record.Event {
	failed := time.Date(2026, 3, 4, 4, 6, 7, 8_000_000, time.UTC)
	return &record.Event{
		ID: "9755c355-56c3-4a2f-a2da-86ff4411fccb", Type: record.EventRefreshFailed, OccurredAt: failed,
		Connection: record.Connection{
			Key: record.Key{Application: "my-app", Consumer: "jane", Connector: connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}},
			Connector: connector.Definition{
				Name: "Acme", Website: "https://www.acme.example", AuthType: connector.OAuth2,
				Settings: []connector.Setting{{Name: "realm_id", Required: true}, {Name: "api_secret", Sensitive: true}},
			},
			State: record.StateInvalid, Health: record.HealthNeedsAuth, Enabled: true,
			Settings:            map[string]any{"realm_id": "4620816365012345678", "api_secret": record.Mask},
			Metadata:            map[string]any{"account": map[string]any{"name": "Jane Ltd"}},
			CreatedAt:           time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC),
			UpdatedAt:           failed,
			LastRefreshFailedAt: failed, CredentialsExpireAt: failed.Add(48 * time.Hour),
		},
	}
}

// The page shows the body as it is sent, except for the indentation.
func TestPageShowsThePayload(t *testing.T) {
	t.Parallel()
	sent, err := body(pageEvent(), 1)
	if err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	if err := json.Compact(&shown, []byte(blockAfter(t, "payload"))); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(shown.Bytes(), sent) {
		t.Errorf("docs/events.md shows\n%s\nwant the body as it is sent,\n%s", &shown, sent)
	}
	// Each member has a row in one of the two tables.
	var members struct {
		Payload map[string]any `json:"payload"`
	}
	if err := json.Unmarshal(sent, &members); err != nil {
		t.Fatal(err)
	}
	entity, _ := members.Payload["entity"].(map[string]any)
	_, tables, _ := strings.Cut(page(t), "| member of `payload` |")
	tables, _, _ = strings.Cut(tables, "\n## ")
	for _, names := range []map[string]any{members.Payload, entity} {
		for name := range names {
			if !regexp.MustCompile("(?m)^\\|[^|]*`" + name + "`[^|]*\\|").MatchString(tables) {
				t.Errorf("docs/events.md does not explain the member %s", name)
			}
		}
	}
}

func TestPageNamesEveryTypeOfEvent(t *testing.T) {
	t.Parallel()
	var named, sent []string
	for _, match := range regexp.MustCompile("(?m)^\\| `(vault\\.[a-z_.]+)` \\|").FindAllStringSubmatch(page(t), -1) {
		named = append(named, match[1])
	}
	for _, event := range record.EventTypes() {
		sent = append(sent, string(event))
	}
	slices.Sort(named)
	slices.Sort(sent)
	if !slices.Equal(named, sent) {
		t.Errorf("docs/events.md has the types %v, want %v", named, sent)
	}
}

func TestPageNamesTheHeaders(t *testing.T) {
	t.Parallel()
	text := strings.ToLower(page(t))
	for _, name := range []string{headerEventType, headerIdempotencyKey, headerSignature} {
		if !strings.Contains(text, "| `"+name+"` |") || !strings.Contains(text, "\n"+name+": ") {
			t.Errorf("docs/events.md does not show and explain the header %s", name)
		}
	}
	if !strings.Contains(text, "\nuser-agent: "+userAgent) {
		t.Errorf("docs/events.md does not show the User-Agent %s", userAgent)
	}
}

// The page has the schedule of the code, and every attempt in it fits into the lifetime.
func TestPageHasTheSchedule(t *testing.T) {
	t.Parallel()
	var want strings.Builder
	fmt.Fprintln(&want, "| 1 | | |")
	total := time.Duration(0)
	for attempt := 2; attempt <= maxAttempts; attempt++ {
		gap := gaps[attempt-2]
		total += gap
		fmt.Fprintf(&want, "| %d | %s | %s |\n", attempt, short(gap), short(total))
	}
	if !strings.Contains(page(t), want.String()+"\n") {
		t.Errorf("docs/events.md lacks the schedule\n%s", &want)
	}
	if total >= timeToLive {
		t.Errorf("the last attempt comes after %v, want less than %v", total, timeToLive)
	}
}

// short formats a duration without its zero parts.
func short(d time.Duration) string {
	s := strings.TrimSuffix(d.String(), "0s")
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// The Go function of the page is the one in the example, which runs as a test.
func TestPageVerifiesInGo(t *testing.T) {
	t.Parallel()
	example, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	if sample := blockAfter(t, "verify: go"); !strings.Contains(string(example), "\n"+sample) {
		t.Errorf("example_test.go does not have the function of docs/events.md:\n%s", sample)
	}
}

// The JavaScript function of the page accepts valid signatures and refuses others.
func TestPageVerifiesInNode(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("node"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("node is missing: CI must run the sample of docs/events.md")
		}
		t.Skip("SAMPLE OF docs/events.md NOT RUN: node is missing")
	}
	const key = "hook-s3cret"
	payload, err := body(pageEvent(), 1)
	if err != nil {
		t.Fatal(err)
	}
	signed := signature(secret.New(key), payload)
	given, err := json.Marshal(map[string]any{"body": string(payload), "cases": [][]string{
		{signed, key},                            // true
		{signed, "another secret"},               // and all others false
		{strings.Repeat("0", len(signed)), key},  // of the right length
		{signed[:len(signed)-2], key}, {"", key}, // too short, empty
		{"no hex", key},
	}})
	if err != nil {
		t.Fatal(err)
	}
	const harness = `
const { body, cases } = JSON.parse(process.argv[2])
const missing = verify(Buffer.from(body), undefined, cases[0][1])
console.log(JSON.stringify([...cases.map(([signature, key]) => verify(Buffer.from(body), signature, key)), missing]))
`
	script := filepath.Join(t.TempDir(), "verify.mjs")
	if err := os.WriteFile(script, []byte(blockAfter(t, "verify: node")+harness), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "node", script, string(given)).CombinedOutput()
	if err != nil {
		t.Fatalf("node: %v\n%s", err, out)
	}
	if got, want := strings.TrimSpace(string(out)), "[true,false,false,false,false,false,false]"; got != want {
		t.Errorf("the sample returns %s, want %s", got, want)
	}
}
