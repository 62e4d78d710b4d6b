package tokenendpoint

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// An answerFile is an answer that a token endpoint has given to somebody, and what it must
// lead to. A new report is a new file in testdata/answers.
type answerFile struct {
	Source  string            `json:"source"` // URL of the public report, or of the rule
	Note    string            `json:"note"`   // what it is about
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers"`
	Body    json.RawMessage   `json:"body"`   // JSON; a string is the text itself, in which @unix+60@ stands for a time
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
		RetryAfter      string       `json:"retry_after"`
		AccessToken     string       `json:"access_token"`
		RefreshToken    string       `json:"refresh_token"`
		Lifetime        string       `json:"lifetime"`
		RefreshLifetime string       `json:"refresh_lifetime"`
	} `json:"want"`
}

// sentAt is when the token request is sent.
var sentAt = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func (f *answerFile) text() string {
	var s string
	if json.Unmarshal(f.Body, &s) == nil {
		return expandTimes(s, sentAt)
	}
	return string(f.Body)
}

// timePattern is a time in a body or a header, so many seconds after now.
var timePattern = regexp.MustCompile(`@(unix|unix_ms|http|rfc3339)\+([0-9]+)@`)

func expandTimes(text string, now time.Time) string {
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

// coded returns the body as it is sent.
func (f *answerFile) coded(text string) string {
	var b bytes.Buffer
	var w io.WriteCloser
	switch f.Coding {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "deflate":
		w = zlib.NewWriter(&b)
	default:
		return text
	}
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	return b.String()
}

// RoundTrip implements [http.RoundTripper] with the answer.
func (f *answerFile) RoundTrip(req *http.Request) (*http.Response, error) {
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return nil, err
	}
	header := make(http.Header)
	for name, value := range f.Headers {
		header.Set(name, expandTimes(value, sentAt))
	}
	text := f.text()
	if header.Get("Content-Type") == "" && strings.HasPrefix(text, "{") {
		header.Set("Content-Type", "application/json")
	}
	if f.Coding != "" {
		header.Set("Content-Encoding", f.Coding)
		text = f.coded(text)
	}
	return &http.Response{
		StatusCode: f.Status, Header: header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
		Body: io.NopCloser(strings.NewReader(text)), ContentLength: int64(len(text)),
	}, nil
}

var _ http.RoundTripper = (*answerFile)(nil)

// Every answer in testdata/answers means what its file says.
func TestAnswersOfTokenEndpoints(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/answers/*.json")
	if err != nil || len(paths) < 100 {
		t.Fatalf("got %d files, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".json"), func(t *testing.T) {
			t.Parallel()
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			dec := json.NewDecoder(bytes.NewReader(b))
			dec.DisallowUnknownFields()
			var f answerFile
			if err := dec.Decode(&f); err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(f.Source, "https://") {
				t.Errorf("the source is %q, want a URL", f.Source)
			}
			f.check(t)
		})
	}
}

// check sends a token request and compares what it leads to.
func (f *answerFile) check(t *testing.T) {
	t.Helper()
	ans := Send(context.Background(), f, Request{
		URL: "https://auth.example.com/token", Client: record.Client{ID: "client", Secret: secret.New("client-secret")},
		Params: url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"the-refresh-token"}},
		SentAt: sentAt, Secrets: []string{"client-secret", "the-refresh-token"},
		Answer:          (&connector.Definition{Answer: f.Answer}).AnswerPaths(),
		PermanentErrors: f.PermanentErrors, ConfigurationErrors: f.ConfigurationErrors,
		TransientErrors: f.TransientErrors, EarlyErrors: f.EarlyErrors,
	})
	if ans.Class != f.Want.Class || ans.Code != f.Want.Code || ans.Early != f.Want.Early || ans.Status != f.Status {
		t.Errorf("got class %q, code %q, early %t, status %d; want %q, %q, %t", ans.Class, ans.Code, ans.Early, ans.Status, f.Want.Class, f.Want.Code, f.Want.Early)
	}
	for _, duration := range []struct {
		name, want string
		got        time.Duration
	}{
		{"retry_after", f.Want.RetryAfter, ans.RetryAfter},
		{"lifetime", f.Want.Lifetime, ans.Lifetime},
		{"refresh_lifetime", f.Want.RefreshLifetime, ans.RefreshLifetime},
	} {
		var want time.Duration
		if duration.want != "" {
			var err error
			if want, err = time.ParseDuration(duration.want); err != nil {
				t.Fatal(err)
			}
		}
		if duration.got != want {
			t.Errorf("got %s %v, want %v", duration.name, duration.got, want)
		}
	}
	if f.Want.Detail != "" && ans.Detail != f.Want.Detail {
		t.Errorf("got the detail %q, want %q", ans.Detail, f.Want.Detail)
	}
	if got := ans.AccessToken.Reveal(); got != f.Want.AccessToken {
		t.Errorf("got the access token %q, want %q", got, f.Want.AccessToken)
	}
	if got := ans.RefreshToken.Reveal(); got != f.Want.RefreshToken && got != "the-refresh-token" { // which is as good as none
		t.Errorf("got the refresh token %q, want %q", got, f.Want.RefreshToken)
	}
}
