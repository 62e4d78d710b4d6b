package connector

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A RotationKind says what a token endpoint does with a refresh token that was spent.
type RotationKind string

// The kinds of rotation.
const (
	RotationAlways RotationKind = "always" // each refresh token works once (RFC 9700 section 4.14.2)
	RotationNever  RotationKind = "never"  // refresh tokens stay as they are
	RotationWindow RotationKind = "window" // a spent refresh token keeps working for a while
)

// Rotation says what becomes of a refresh token that was spent.
type Rotation struct {
	// `always`: it worked once. `never`: it stays as it is. `window`: it keeps working for a
	// while.
	Kind RotationKind `json:"kind"`

	// With `window`: for how long.
	Window time.Duration `json:"window,omitempty"`
}

// String returns r in Caddyfile syntax: "window 30m0s".
func (r Rotation) String() string {
	if r.Window == 0 {
		return string(r.Kind)
	}
	return string(r.Kind) + " " + r.Window.String()
}

// UnmarshalJSON reads Caddyfile syntax as text, "window 30m", or an object.
func (r *Rotation) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil { // null too, which says nothing
		return r.parse(s)
	}
	var object struct {
		Kind   RotationKind    `json:"kind"`
		Window json.RawMessage `json:"window"`
	}
	if err := decodeStrictly(b, &object); err != nil {
		if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return errors.New(`rotation: must be text such as "window 30m", or an object with kind and window`)
		}
		return fmt.Errorf("rotation: %w", withoutPrefix(err))
	}
	window, err := parseDurationJSON(object.Window)
	if err != nil {
		return fmt.Errorf("rotation: window: %w, such as 30m", err)
	}
	*r = Rotation{Kind: object.Kind, Window: window}
	return nil
}

func (r *Rotation) parse(s string) error {
	kind, window, _ := strings.Cut(s, " ")
	parsed := Rotation{Kind: RotationKind(kind)}
	if window != "" {
		var err error
		if parsed.Window, err = parseDuration(window); err != nil {
			return fmt.Errorf("rotation: %w, such as 30m", err)
		}
	}
	*r = parsed
	return nil
}

// parseDurationJSON reads a duration as Caddy does: text, or a number of nanoseconds. If it
// is absent, null or empty, it is 0.
func parseDurationJSON(b json.RawMessage) (time.Duration, error) {
	if isUnset(b) {
		return 0, nil
	}
	var s string
	if json.Unmarshal(b, &s) == nil {
		return parseDuration(s)
	}
	var nanoseconds int64
	if json.Unmarshal(b, &nanoseconds) != nil {
		return 0, errors.New("is not a duration")
	}
	return time.Duration(nanoseconds), nil
}

func isUnset(b json.RawMessage) bool {
	return len(b) == 0 || string(b) == "null" || string(b) == `""`
}

var dayPattern = regexp.MustCompile(`[0-9.]+d`)

// parseDuration is [time.ParseDuration] with Caddy's further unit d, a day of 24 hours.
func parseDuration(s string) (time.Duration, error) {
	hours := dayPattern.ReplaceAllStringFunc(s, func(days string) string {
		n, err := strconv.ParseFloat(strings.TrimSuffix(days, "d"), 64)
		if err != nil {
			return days
		}
		return strconv.FormatFloat(24*n, 'f', -1, 64) + "h"
	})
	d, err := time.ParseDuration(hours)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration", s)
	}
	return d, nil
}
