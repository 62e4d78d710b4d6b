package retryafter

import (
	"net/http"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"": 0, "120": 2 * time.Minute, "-1": 0, "soon": 0, "Thu, 01 Jan 2026 00:05:00 GMT": 5 * time.Minute,
		"Wed, 31 Dec 2025 00:00:00 GMT": 0, "99999999999999999999": 0,
	} {
		if got := Parse(http.Header{"Retry-After": {s}}, now); got != want {
			t.Errorf("Retry-After %q: got %v, want %v", s, got, want)
		}
	}
	if got := Parse(http.Header{}, now); got != 0 {
		t.Errorf("without the header: got %v, want 0", got)
	}
}

// Any server may send any text: the result is never negative, and never so long that adding it
// to a time overflows.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "120", "-1", "2147483647", "Thu, 01 Jan 2026 00:05:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"} {
		f.Add(s)
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		if got := Parse(http.Header{"Retry-After": {s}}, now); got < 0 || now.Add(got).Before(now) {
			t.Errorf("Retry-After %q: got %v", s, got)
		}
	})
}
