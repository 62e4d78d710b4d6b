package tokenendpoint

import (
	"net/http"
	"strings"
	"testing"
)

func TestRefusalsKeepWhatHelpsToFindTheCause(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		header http.Header
		body   string
		want   string
	}{
		"Microsoft": {
			http.Header{"X-Ms-Request-Id": {"6c3a-11"}},
			`{"error":"invalid_grant","error_description":"AADSTS50173: The provided grant has expired","error_codes":[50173],"suberror":"bad_token"}`,
			"suberror=bad_token error_codes=50173 number=AADSTS50173 x-ms-request-id=6c3a-11",
		},
		"Intuit":      {http.Header{"Intuit_tid": {"1-5f-abc"}}, `{"error":"invalid_grant"}`, "intuit_tid=1-5f-abc"},
		"a challenge": {http.Header{"Content-Type": {"text/html; charset=UTF-8"}, "Server": {"cloudflare"}, "Cf-Ray": {"8a-FRA"}}, `<html>`, "cf-ray=8a-FRA content-type=text.html server=cloudflare"},
		"nothing":     {nil, `{"error":"invalid_grant","error_description":"expired"}`, ""},
		"a secret":    {http.Header{"X-Request-Id": {"the-refresh-token"}}, `{"error":"invalid_grant","suberror":"the-refresh-token"}`, ""},
		"a text":      {nil, `{"error":"invalid_grant","suberror":"two words\nand a line"}`, ""},
	} {
		if test.header == nil {
			test.header = http.Header{}
		}
		x := &exchange{status: 400, header: test.header, body: []byte(test.body)}
		req := &Request{Secrets: []string{"the-refresh-token"}}
		if got := req.judge(x, x.refusal(req)).Detail; got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
	long := &exchange{status: 400, header: http.Header{}, body: []byte(`{"error":"x","suberror":["` + strings.Repeat(`aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","`, 20) + `b"]}`)}
	req := &Request{}
	if got := req.judge(long, long.refusal(req)).Detail; len(got) > maxDetail {
		t.Errorf("got %d bytes, want at most %d", len(got), maxDetail)
	}
}
