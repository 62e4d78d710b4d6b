// Package answertest reads answers of token endpoints from files, one each, so that a report
// about another answer is a new file and no code.
package answertest

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// An Answer is an answer of a token endpoint, and what it must lead to. In texts and headers
// @unix+60@ stands for a time 60 seconds after the answer; unix_ms, http and rfc3339 are others.
type Answer struct {
	Source  string            `json:"source"` // URL of the public report, or of the rule
	Note    string            `json:"note"`   // what it is about
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers"`
	Body    json.RawMessage   `json:"body"`   // JSON; a string is the text itself
	Coding  string            `json:"coding"` // gzip or deflate: how the body is sent

	// What the connector says of the endpoint, as in a connector file.
	Answer              map[string]string `json:"answer"`
	PermanentErrors     []string          `json:"permanent_errors"`
	ConfigurationErrors []string          `json:"configuration_errors"`
	TransientErrors     []string          `json:"transient_errors"`
	EarlyErrors         []string          `json:"early_errors"`

	Want struct {
		Class           record.Class `json:"class"` // empty: a token
		Code            string       `json:"code"`
		Detail          string       `json:"detail"` // empty: anything
		Early           bool         `json:"early"`
		RetryAfter      Duration     `json:"retry_after"`
		AccessToken     string       `json:"access_token"`
		RefreshToken    string       `json:"refresh_token"`
		Lifetime        Duration     `json:"lifetime"`
		RefreshLifetime Duration     `json:"refresh_lifetime"`
	} `json:"want"`
}

// A Duration is written like 90s.
type Duration time.Duration

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err
}

// Read returns the answers in a directory by the names of their files.
func Read(t testing.TB, dir string) map[string]*Answer {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("got %d files in %s, %v", len(paths), dir, err)
	}
	answers := make(map[string]*Answer, len(paths))
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.DisallowUnknownFields()
		a := &Answer{}
		if err := dec.Decode(a); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		answers[strings.TrimSuffix(filepath.Base(path), ".json")] = a
	}
	return answers
}

// Response returns the answer as a response that is sent now.
func (a *Answer) Response(now time.Time) *http.Response {
	header := make(http.Header)
	for name, value := range a.Headers {
		header.Set(name, withTimes(value, now))
	}
	body := a.body(now)
	if header.Get("Content-Type") == "" && bytes.HasPrefix(body, []byte("{")) {
		header.Set("Content-Type", "application/json")
	}
	if a.Coding != "" {
		header.Set("Content-Encoding", a.Coding)
		body = encode(a.Coding, body)
	}
	return &http.Response{
		StatusCode: a.Status, Header: header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}
}

func (a *Answer) body(now time.Time) []byte {
	var text string
	if json.Unmarshal(a.Body, &text) != nil {
		return a.Body
	}
	return []byte(withTimes(text, now))
}

var timePattern = regexp.MustCompile(`@(unix|unix_ms|http|rfc3339)\+([0-9]+)@`)

func withTimes(text string, now time.Time) string {
	return timePattern.ReplaceAllStringFunc(text, func(s string) string {
		match := timePattern.FindStringSubmatch(s)
		seconds, _ := strconv.Atoi(match[2])
		switch at := now.Add(time.Duration(seconds) * time.Second).UTC(); match[1] {
		case "unix":
			return strconv.FormatInt(at.Unix(), 10)
		case "unix_ms":
			return strconv.FormatInt(at.UnixMilli(), 10)
		case "http":
			return at.Format(http.TimeFormat)
		default:
			return at.Format(time.RFC3339)
		}
	})
}

// encode applies a content coding.
func encode(coding string, body []byte) []byte {
	var b bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&b)
	if coding == "deflate" {
		w = zlib.NewWriter(&b)
	}
	_, _ = w.Write(body)
	_ = w.Close()
	return b.Bytes()
}
