package tokenendpoint

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// A timeMember is a member with the lifetime or the expiry of a token.
type timeMember struct {
	name string
	unit connector.TimeUnit // empty: the value decides
}

// accessTimes are members with the lifetime of an access token. The first readable one counts.
// Names with a unit come before expires_in (RFC 6749 section 5.1), which some endpoints send in
// milliseconds beside them.
var accessTimes = []timeMember{
	{"expires_in_sec", connector.UnitSeconds},
	{"expires_in_seconds", connector.UnitSeconds},
	{"expires_in_ms", connector.UnitMilliseconds},
	{"expires_in_millis", connector.UnitMilliseconds},
	{"expires_in_milliseconds", connector.UnitMilliseconds},
	{"expires_in", connector.UnitSeconds},
	{"access_token_expires_in", connector.UnitSeconds},
	{"token_expires_in", connector.UnitSeconds},
	{"expire_in", connector.UnitSeconds},
	{"access_token_lifetime", connector.UnitSeconds},
	{"ttl", connector.UnitSeconds},
	{"expire", ""},
	{"access_token_expire_in", ""},
	{"expires_at_ms", connector.UnitUnixMilli},
	{"expires_at", ""},
	{"expires_on", ""},
	{"expires", ""},
	{"access_token_expires_at", ""},
	{"access_token_expiration", ""},
	{"expiration", ""},
	{"expiry", ""},
	{"expiry_date", ""},
	{"expire_time", ""},
	{"expires_time", ""},
	{"valid_until", ""},
}

// refreshTimes are members with the lifetime of a refresh token.
var refreshTimes = []timeMember{
	{"refresh_token_expires_in_ms", connector.UnitMilliseconds},
	{"refresh_token_expires_in", connector.UnitSeconds},
	{"x_refresh_token_expires_in", connector.UnitSeconds},
	{"refresh_expires_in", connector.UnitSeconds},
	{"refresh_token_lifetime", connector.UnitSeconds},
	{"refresh_token_expire_in", ""},
	{"refresh_token_expires_at", ""},
	{"refresh_expires_at", ""},
	{"refresh_token_expires_on", ""},
	{"refresh_token_expiration", ""},
	{"refresh_token_expiry", ""},
}

// lifetime returns the lifetime of the access token from req.SentAt on, 0 if the answer does not
// have it.
func lifetime(answer any, req *Request) time.Duration {
	if at, ok := req.Answer[connector.AnswerExpiresIn]; ok {
		unit := at.Unit
		if unit == "" {
			unit = connector.UnitSeconds
		}
		if d := duration(lookup(answer, at.Path), unit, req.SentAt); d > 0 {
			return d
		}
	}
	if at, ok := req.Answer[connector.AnswerExpiresAt]; ok {
		if d := duration(lookup(answer, at.Path), at.Unit, req.SentAt); d > 0 {
			return d
		}
	}
	if d := firstTime(req.besideAccessToken(answer), accessTimes, req.SentAt); d > 0 {
		return d
	}
	return firstTime(answer, accessTimes, req.SentAt)
}

// refreshLifetime returns the lifetime of the refresh token from req.SentAt on, 0 if the answer
// does not have it.
func refreshLifetime(answer any, req *Request) time.Duration {
	if at, ok := req.Answer[connector.AnswerRefreshExpiresIn]; ok {
		if d := duration(lookup(answer, at.Path), at.Unit, req.SentAt); d > 0 {
			return d
		}
	}
	if d := firstTime(req.besideAccessToken(answer), refreshTimes, req.SentAt); d > 0 {
		return d
	}
	return firstTime(answer, refreshTimes, req.SentAt)
}

func firstTime(answer any, members []timeMember, now time.Time) time.Duration {
	for _, m := range members {
		if d := duration(member(answer, m.name), m.unit, now); d > 0 {
			return d
		}
	}
	return 0
}

// How numbers tell what they are: lifetimes are below ten years, times in seconds below the year
// 5138. An expires_in from minUnix on, which is 31 years, is a time too.
const (
	maxBareLifetime = 10 * 365 * 24 * 3600
	minUnix         = 1e9
	minUnixMilli    = 1e11
)

// duration reads a lifetime, or an expiry as the time left until then. It returns 0 for a value
// that it cannot read, and 0 or less for an expiry that has passed.
func duration(value any, unit connector.TimeUnit, now time.Time) time.Duration {
	var text string
	switch v := value.(type) {
	case string:
		text = strings.TrimSpace(v)
	case json.Number:
		text = v.String()
	default:
		return 0
	}
	number, err := strconv.ParseFloat(text, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) || math.IsNaN(number) {
		return until(text, now)
	}
	if unit == "" || unit == connector.UnitSeconds && number >= minUnix {
		switch {
		case number < maxBareLifetime:
			unit = connector.UnitSeconds
		case number < minUnixMilli:
			unit = connector.UnitUnix
		default:
			unit = connector.UnitUnixMilli
		}
	}
	since := float64(now.UnixMilli()) / 1000
	switch unit {
	case connector.UnitSeconds:
		return seconds(number)
	case connector.UnitMilliseconds:
		return seconds(number / 1000)
	case connector.UnitUnix:
		return seconds(number - since)
	case connector.UnitUnixMilli:
		return seconds(number/1000 - since)
	default: // a number where a date should be
		return 0
	}
}

// seconds returns a number of seconds as a duration, at most 68 years.
func seconds(n float64) time.Duration {
	n = max(min(n, math.MaxInt32), math.MinInt32)
	return time.Duration(n * float64(time.Second))
}

// timeLayouts are the date formats of token endpoints. A date without a zone is in UTC.
var timeLayouts = []string{
	time.RFC3339, "2006-01-02T15:04:05Z0700", "2006-01-02T15:04:05", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05", time.RFC1123Z,
	"2006-01-02 15:04:05 UTC", "2006-01-02 15:04:05 -0700", "2006-01-02 15:04:05 -0700 MST",
}

// until returns the time left until a date. A text such as 3600s is the time itself.
func until(text string, now time.Time) time.Duration {
	if d, err := time.ParseDuration(text); err == nil {
		return d
	}
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, text); err == nil {
			return seconds(t.Sub(now).Seconds())
		}
	}
	if t, err := http.ParseTime(text); err == nil {
		return seconds(t.Sub(now).Seconds())
	}
	return 0
}
