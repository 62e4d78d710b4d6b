package proxy

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

func TestRateLimitHasOneForm(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	for name, tt := range map[string]struct {
		header []string
		want   string // limit, remaining, reset
	}{
		"nothing":               {nil, "  "},
		"draft, three headers":  {[]string{"RateLimit-Limit", "100", "RateLimit-Remaining", "50", "RateLimit-Reset", "30"}, "100 50 1800000030"},
		"draft, with a policy":  {[]string{"RateLimit-Limit", "100, 100;w=60", "RateLimit-Remaining", "50"}, "100 50 "},
		"draft 7":               {[]string{"RateLimit", "limit=100, remaining=50, reset=5"}, "100 50 1800000005"},
		"draft 8 and later":     {[]string{"RateLimit", `"default";r=50;t=30`, "RateLimit-Policy", `"default";q=100;w=60`}, "100 50 1800000030"},
		"GitHub":                {[]string{"X-RateLimit-Limit", "60", "X-RateLimit-Remaining", "59", "X-RateLimit-Reset", "1800000100"}, "60 59 1800000100"},
		"milliseconds":          {[]string{"X-RateLimit-Reset", "1800000100123"}, "  1800000100"},
		"with a fraction":       {[]string{"X-Rate-Limit-Reset", "1800000100.9"}, "  1800000100"},
		"Zendesk":               {[]string{"X-Rate-Limit", "700", "X-Rate-Limit-Remaining", "699", "Retry-After", "93"}, "700 699 1800000093"},
		"HubSpot":               {[]string{"X-HubSpot-RateLimit-Max", "100", "X-HubSpot-RateLimit-Remaining", "99"}, "100 99 "},
		"Shopify":               {[]string{"X-Shopify-Shop-Api-Call-Limit", "32/40"}, "40 8 "},
		"Salesforce":            {[]string{"Sforce-Limit-Info", "api-usage=18/5000"}, "5000 4982 "},
		"Xero":                  {[]string{"X-MinLimit-Remaining", "59"}, " 59 "},
		"a duration":            {[]string{"X-RateLimit-Reset-Requests", "6m0s"}, "  1800000360"},
		"a date":                {[]string{"Retry-After", "Fri, 15 Jan 2027 08:00:30 GMT"}, "  1800000030"},
		"RFC 3339":              {[]string{"X-RateLimit-Reset", "2027-01-15T08:00:30Z"}, "  1800000030"},
		"the reset wins":        {[]string{"X-RateLimit-Reset", "10", "Retry-After", "99"}, "  1800000010"},
		"garbage":               {[]string{"X-RateLimit-Limit", "many", "X-RateLimit-Remaining", "-1", "X-RateLimit-Reset", "soon", "Retry-After", ""}, "  "},
		"numbers beyond reason": {[]string{"X-RateLimit-Limit", "99999999999999999999", "RateLimit-Reset", "99999999999999999999"}, "  "},
		"more used than is":     {[]string{"X-Shopify-Shop-Api-Call-Limit", "41/40"}, "40 0 "},
		"half of a ratio":       {[]string{"X-Shopify-Shop-Api-Call-Limit", "41/"}, "  "},
	} {
		from, to := make(http.Header), make(http.Header)
		for i := 0; i < len(tt.header); i += 2 {
			from.Add(tt.header[i], tt.header[i+1])
		}
		setRateLimit(to, from, now)
		got := fmt.Sprint(to.Get("X-Downstream-Ratelimit-Limit"), " ", to.Get("X-Downstream-Ratelimit-Remaining"), " ", to.Get("X-Downstream-Ratelimit-Reset"))
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}

func FuzzRateLimit(f *testing.F) {
	f.Add("100, 100;w=60", "limit=1,remaining=2,reset=3", "Fri, 15 Jan 2027 08:00:30 GMT", "api-usage=18/5000")
	f.Fuzz(func(t *testing.T, limit, structured, reset, used string) {
		to := make(http.Header)
		setRateLimit(to, http.Header{
			"X-Ratelimit-Limit": {limit}, "Ratelimit": {structured}, "Ratelimit-Policy": {structured}, "Retry-After": {reset}, "Sforce-Limit-Info": {used},
		}, time.Unix(1_800_000_000, 0))
		for name, values := range to {
			v := values[0]
			if name == rateLimitPrefix+"Reset" && v[0] == '-' {
				v = v[1:] // dates before 1970
			}
			if number(v) != v {
				t.Errorf("got %s %q", name, values[0])
			}
		}
	})
}
