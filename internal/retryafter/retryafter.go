// Package retryafter parses the Retry-After header of responses, for the clients of token
// endpoints, webhooks and brokers.
package retryafter

import (
	"net/http"
	"strconv"
	"time"
)

// Parse returns how long the Retry-After header asks to wait, in seconds or until a date
// (RFC 9110 section 10.2.3). It returns 0 if the header is absent or invalid, or the date is
// past. A date counts from the response's own Date if it has one, since the clock of the
// server and now can differ. There is no upper limit: the caller sets its own.
func Parse(header http.Header, now time.Time) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		if sent, err := http.ParseTime(header.Get("Date")); err == nil {
			now = sent
		}
		return max(0, date.Sub(now))
	}
	return 0
}
