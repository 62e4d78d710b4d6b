package connector

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The largest budget of a token endpoint. No more requests are at the store at a time, either.
const (
	maxRefreshRate        = 1000
	maxRefreshConcurrency = 64
)

// A Rate is a number of times per second.
type Rate int

// String returns r in Caddyfile syntax: "50/s".
func (r Rate) String() string { return strconv.Itoa(int(r)) + "/s" }

// ParseRate reads a rate in Caddyfile syntax: "50/s".
func ParseRate(s string) (Rate, error) {
	number, perSecond := strings.CutSuffix(s, "/s")
	n, err := strconv.Atoi(number)
	if err != nil || !perSecond || n < 1 {
		return 0, fmt.Errorf("%q is not a number per second, such as 50/s", s)
	}
	return Rate(n), nil
}

// UnmarshalJSON reads Caddyfile syntax as text, "50/s", or a number.
func (r *Rate) UnmarshalJSON(b []byte) error {
	if isUnset(b) {
		return nil
	}
	var s string
	if json.Unmarshal(b, &s) == nil {
		rate, err := ParseRate(s)
		if err != nil {
			return fmt.Errorf("refresh_rate: %w", err)
		}
		*r = rate
		return nil
	}
	var n int
	if json.Unmarshal(b, &n) != nil {
		return errors.New("refresh_rate: is not a number per second, such as 50/s")
	}
	*r = Rate(n)
	return nil
}

// pace checks how many refreshes the token endpoint gets.
func (v *validation) pace() {
	if r := v.d.RefreshRate; r < 0 || r > maxRefreshRate {
		v.fail("refresh_rate", "must be between 1/s and %d/s", maxRefreshRate)
	}
	if n := v.d.RefreshConcurrency; n < 0 || n > maxRefreshConcurrency {
		v.fail("refresh_concurrency", "must be between 1 and %d", maxRefreshConcurrency)
	}
}
