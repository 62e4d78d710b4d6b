package tokenendpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
	Body    json.RawMessage   `json:"body"` // JSON; a string is the text itself

	// The connector's own words, as in a connector file.
	PermanentErrors     []string `json:"permanent_errors"`
	ConfigurationErrors []string `json:"configuration_errors"`
	TransientErrors     []string `json:"transient_errors"`
	EarlyErrors         []string `json:"early_errors"`

	Want struct {
		Class        record.Class `json:"class"` // empty: a token
		Code         string       `json:"code"`
		Early        bool         `json:"early"`
		RetryAfter   string       `json:"retry_after"`
		AccessToken  string       `json:"access_token"`
		RefreshToken string       `json:"refresh_token"`
		Lifetime     string       `json:"lifetime"`
	} `json:"want"`
}

func (f *answerFile) text() string {
	var s string
	if json.Unmarshal(f.Body, &s) == nil {
		return s
	}
	return string(f.Body)
}

// RoundTrip implements [http.RoundTripper] with the answer.
func (f *answerFile) RoundTrip(req *http.Request) (*http.Response, error) {
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return nil, err
	}
	header := make(http.Header)
	for name, value := range f.Headers {
		header.Set(name, value)
	}
	text := f.text()
	if header.Get("Content-Type") == "" && strings.HasPrefix(text, "{") {
		header.Set("Content-Type", "application/json")
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
		SentAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Secrets: []string{"client-secret", "the-refresh-token"},
		PermanentErrors: f.PermanentErrors, ConfigurationErrors: f.ConfigurationErrors,
		TransientErrors: f.TransientErrors, EarlyErrors: f.EarlyErrors,
	})
	if ans.Class != f.Want.Class || ans.Code != f.Want.Code || ans.Early != f.Want.Early || ans.Status != f.Status {
		t.Errorf("got class %q, code %q, early %t, status %d; want %q, %q, %t", ans.Class, ans.Code, ans.Early, ans.Status, f.Want.Class, f.Want.Code, f.Want.Early)
	}
	for _, duration := range []struct {
		name, want string
		got        time.Duration
	}{{"retry_after", f.Want.RetryAfter, ans.RetryAfter}, {"lifetime", f.Want.Lifetime, ans.Lifetime}} {
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
	if got := ans.AccessToken.Reveal(); got != f.Want.AccessToken {
		t.Errorf("got the access token %q, want %q", got, f.Want.AccessToken)
	}
	if got := ans.RefreshToken.Reveal(); got != f.Want.RefreshToken && got != "the-refresh-token" { // which is as good as none
		t.Errorf("got the refresh token %q, want %q", got, f.Want.RefreshToken)
	}
}
