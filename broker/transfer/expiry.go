package transfer

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// A Unit is what an expiry was taken for.
type Unit string

// The units of an expiry.
const (
	UnitMilliseconds Unit = "milliseconds since 1970"
	UnitSeconds      Unit = "seconds since 1970"
	UnitLifetime     Unit = "a lifetime in seconds"
	UnitZoned        Unit = "a date and time with a zone"
	UnitLocal        Unit = "a date and time without a zone"
)

// An Expiry is how an expiry was read.
type Expiry struct {
	Column   string
	Text     string // as the source has it
	Unit     Unit
	At       time.Time     // zero for a lifetime
	Lifetime time.Duration // 0 unless Unit is UnitLifetime
}

// The limits of the units. A number below minSeconds is a lifetime: 1e9 seconds are 31 years, and
// as a time they are in 2001. From minMilliseconds on it is in milliseconds: as seconds that is
// the year 5138.
const (
	minSeconds      = 1e9
	minMilliseconds = 1e11
	tooLate         = 1e14
)

// layouts are the forms of a date and time: RFC 3339 and what databases write. A fraction of a
// second is accepted by all.
var layouts = []struct {
	layout string
	unit   Unit
}{
	{"2006-01-02T15:04:05Z07:00", UnitZoned},
	{"2006-01-02T15:04:05Z0700", UnitZoned},
	{"2006-01-02 15:04:05Z07:00", UnitZoned},
	{"2006-01-02 15:04:05-07", UnitZoned},
	{"2006-01-02 15:04:05 -0700", UnitZoned},
	{"2006-01-02 15:04:05", UnitLocal},
	{"2006-01-02T15:04:05", UnitLocal},
	{"2006-01-02", UnitLocal},
}

// parseExpiry reads an expiry in any unit. It is nil if the token has no known expiry: the value
// is absent, 0, or in the year 1, which is the zero time of Go. A time without a zone
// is in zone.
func parseExpiry(column string, value any, zone *time.Location) (*Expiry, error) {
	text, err := textOf(column, value)
	if err != nil || text == "" {
		return nil, err
	}
	text = strings.TrimSpace(text)
	e := &Expiry{Column: column, Text: text}
	if n, err := strconv.ParseFloat(text, 64); err == nil {
		return e.fromNumber(n)
	}
	if utc, ok := strings.CutSuffix(text, " UTC"); ok { // as Rails writes it
		text = utc + "Z"
	}
	for _, form := range layouts {
		at, err := time.ParseInLocation(form.layout, text, zone)
		if err != nil {
			continue
		}
		if at.Year() <= 1 {
			return nil, nil
		}
		if at = at.UTC(); at.Year() > 9999 {
			break
		}
		e.At, e.Unit = at, form.unit
		return e, nil
	}
	return nil, rowError(ReasonExpiry, "%s is neither a number nor a date and time: send a time like 2026-01-02T15:04:05Z", column)
}

func (e *Expiry) fromNumber(n float64) (*Expiry, error) {
	switch {
	case n == 0:
		return nil, nil
	case math.IsNaN(n), n < 0, n >= tooLate:
		return nil, rowError(ReasonExpiry, "%s is out of range: send seconds or milliseconds since 1970, or a lifetime in seconds", e.Column)
	case n >= minMilliseconds:
		e.Unit, e.At = UnitMilliseconds, time.UnixMilli(int64(n)).UTC()
	case n >= minSeconds:
		e.Unit, e.At = UnitSeconds, time.UnixMilli(int64(n*1000)).UTC()
	default:
		e.Unit, e.Lifetime = UnitLifetime, time.Duration(n)*time.Second
	}
	return e, nil
}

// parseTime reads a time that cannot be a lifetime, such as that of issue. It is zero if the value
// is absent.
func parseTime(column string, value any, zone *time.Location) (time.Time, error) {
	e, err := parseExpiry(column, value, zone)
	if err != nil || e == nil {
		return time.Time{}, err
	}
	if e.Unit == UnitLifetime {
		return time.Time{}, rowError(ReasonExpiry, "%s is no time: send a time like 2026-01-02T15:04:05Z", column)
	}
	return e.At, nil
}

// parseLifetime reads a number of seconds. It is nil if the value is absent.
func parseLifetime(column string, value any) (*time.Duration, error) {
	text, err := textOf(column, value)
	if err != nil || text == "" {
		return nil, err
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil || math.IsNaN(n) || n < 0 || n >= minSeconds {
		return nil, rowError(ReasonExpiry, "%s is no lifetime in seconds, such as 3600", column)
	}
	d := time.Duration(n) * time.Second
	return &d, nil
}
