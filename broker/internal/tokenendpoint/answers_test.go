package tokenendpoint

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/answertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// sentAt is when the token request is sent.
var sentAt = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// An answering transport gives one answer.
type answering struct{ *answertest.Answer }

// RoundTrip implements [http.RoundTripper].
func (a answering) RoundTrip(req *http.Request) (*http.Response, error) {
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return nil, err
	}
	resp := a.Response(sentAt)
	resp.Request = req
	return resp, nil
}

// Every answer in testdata/answers means what its file says. A new report is a new file.
func TestAnswersOfTokenEndpoints(t *testing.T) {
	t.Parallel()
	answers := answertest.Read(t, "testdata/answers")
	if len(answers) < 120 {
		t.Fatalf("got %d answers", len(answers))
	}
	for name, a := range answers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !strings.HasPrefix(a.Source, "https://") {
				t.Errorf("the source is %q, want a URL", a.Source)
			}
			checkAnswer(t, a)
		})
	}
}

// checkAnswer sends a token request and compares what it leads to.
func checkAnswer(t *testing.T, a *answertest.Answer) {
	t.Helper()
	ans := Send(context.Background(), answering{a}, Request{
		URL: "https://auth.example.com/token", Client: record.Client{ID: "client", Secret: secret.New("client-secret")},
		Params: url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"the-refresh-token"}},
		SentAt: sentAt, Secrets: []string{"client-secret", "the-refresh-token"},
		Answer:          (&connector.Definition{Answer: a.Answer}).AnswerPaths(),
		PermanentErrors: a.PermanentErrors, ConfigurationErrors: a.ConfigurationErrors,
		TransientErrors: a.TransientErrors, EarlyErrors: a.EarlyErrors,
	})
	if ans.Class != a.Want.Class || ans.Code != a.Want.Code || ans.Early != a.Want.Early || ans.Status != a.Status {
		t.Errorf("got class %q, code %q, early %t, status %d; want %q, %q, %t", ans.Class, ans.Code, ans.Early, ans.Status, a.Want.Class, a.Want.Code, a.Want.Early)
	}
	for _, duration := range []struct {
		name string
		want answertest.Duration
		got  time.Duration
	}{
		{"retry_after", a.Want.RetryAfter, ans.RetryAfter},
		{"lifetime", a.Want.Lifetime, ans.Lifetime},
		{"refresh_lifetime", a.Want.RefreshLifetime, ans.RefreshLifetime},
	} {
		if want := time.Duration(duration.want); duration.got != want {
			t.Errorf("got %s %v, want %v", duration.name, duration.got, want)
		}
	}
	if a.Want.Detail != "" && ans.Detail != a.Want.Detail {
		t.Errorf("got the detail %q, want %q", ans.Detail, a.Want.Detail)
	}
	if got := ans.AccessToken.Reveal(); got != a.Want.AccessToken {
		t.Errorf("got the access token %q, want %q", got, a.Want.AccessToken)
	}
	if got := ans.RefreshToken.Reveal(); got != a.Want.RefreshToken && got != "the-refresh-token" { // which is as good as none
		t.Errorf("got the refresh token %q, want %q", got, a.Want.RefreshToken)
	}
}
