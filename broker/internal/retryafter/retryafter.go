// Package retryafter reads the header by which servers say when to try again.
package retryafter

import (
	"net/http"
	"strconv"
	"time"
)

// Parse returns how long to wait by the header Retry-After: seconds, or a date (RFC 9110
// section 10.2.3). It is 0 if there is none, none that can be read, or it is past. How
// much a stranger may ask for is up to the caller.
func Parse(header http.Header, now time.Time) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(0, date.Sub(now))
	}
	return 0
}
