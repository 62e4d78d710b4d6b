package connector

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The members of a token endpoint's answer whose place [Definition.Answer] can set.
const (
	AnswerAccessToken      = "access_token"
	AnswerRefreshToken     = "refresh_token"
	AnswerExpiresIn        = "expires_in"         // the access token's lifetime
	AnswerExpiresAt        = "expires_at"         // when the access token expires
	AnswerRefreshExpiresIn = "refresh_expires_in" // the refresh token's lifetime, or when it expires
)

// A TimeUnit is the unit of a lifetime or a time.
type TimeUnit string

// The units of lifetimes and times. Without one, the value decides.
const (
	UnitSeconds      TimeUnit = "s"
	UnitMilliseconds TimeUnit = "ms"
	UnitUnix         TimeUnit = "unix"    // seconds since 1970
	UnitUnixMilli    TimeUnit = "unix_ms" // milliseconds since 1970
	UnitRFC3339      TimeUnit = "rfc3339"
)

// answerUnits are the possible units of each member.
var answerUnits = map[string][]TimeUnit{
	AnswerAccessToken:      nil,
	AnswerRefreshToken:     nil,
	AnswerExpiresIn:        {UnitSeconds, UnitMilliseconds},
	AnswerExpiresAt:        {UnitUnix, UnitUnixMilli, UnitRFC3339},
	AnswerRefreshExpiresIn: {UnitSeconds, UnitMilliseconds, UnitUnix, UnitUnixMilli, UnitRFC3339},
}

// An AnswerPath is the place of a value in a token endpoint's answer.
type AnswerPath struct {
	Path []string // names of members and indices of lists, the outermost first
	Unit TimeUnit // empty: the value decides
}

// AnswerPaths returns the paths of [Definition.Answer], by member, without invalid ones.
func (d *Definition) AnswerPaths() map[string]AnswerPath {
	if len(d.Answer) == 0 {
		return nil
	}
	paths := make(map[string]AnswerPath, len(d.Answer))
	for member, s := range d.Answer {
		if p, err := parseAnswerPath(member, s); err == nil {
			paths[member] = p
		}
	}
	return paths
}

// CapturePaths returns the paths of [Definition.Capture], by setting, without invalid ones.
func (d *Definition) CapturePaths() map[string][]string {
	if len(d.Capture) == 0 {
		return nil
	}
	paths := make(map[string][]string, len(d.Capture))
	for setting, s := range d.Capture {
		if p, err := parsePath(s); err == nil {
			paths[setting] = p
		}
	}
	return paths
}

func parseAnswerPath(member, s string) (AnswerPath, error) {
	units, known := answerUnits[member]
	if !known {
		return AnswerPath{}, fmt.Errorf("%q is not one of %s", member, strings.Join(slices.Sorted(maps.Keys(answerUnits)), ", "))
	}
	path, word, hasUnit := strings.Cut(s, " ")
	p := AnswerPath{Unit: TimeUnit(word)}
	if hasUnit && !slices.Contains(units, p.Unit) {
		if len(units) == 0 {
			return AnswerPath{}, fmt.Errorf("%s takes no unit", member)
		}
		return AnswerPath{}, fmt.Errorf("%s: %q is not one of the units %s", member, word, strings.Trim(fmt.Sprint(units), "[]"))
	}
	var err error
	if p.Path, err = parsePath(path); err != nil {
		return AnswerPath{}, fmt.Errorf("%s: %w", member, err)
	}
	return p, nil
}

// parsePath reads a dotted path, "data.0.token".
func parsePath(s string) ([]string, error) {
	path := strings.Split(s, ".")
	if slices.Contains(path, "") || strings.Contains(s, " ") || hasControl(s) {
		return nil, fmt.Errorf("%q is not a dotted path, such as data.token", s)
	}
	return path, nil
}

func (v *validation) answer() {
	for _, member := range slices.Sorted(maps.Keys(v.d.Answer)) {
		if _, err := parseAnswerPath(member, v.d.Answer[member]); err != nil {
			v.fail("answer", "%w", err)
		}
	}
}

// capture checks the settings that answers change. Token requests must not depend on them: no
// answer may decide where the next refresh token goes.
func (v *validation) capture() {
	for _, name := range slices.Sorted(maps.Keys(v.d.Capture)) {
		if _, err := parsePath(v.d.Capture[name]); err != nil {
			v.fail("capture", "%s: %w", name, err)
		}
		switch s := v.d.setting(name); {
		case s == nil:
			v.fail("capture", "the setting %s is not declared: add setting %s", name, name)
		case s.Sensitive:
			v.fail("capture", "the setting %s is sensitive, and secrets are not captured", name)
		case slices.Contains(v.d.TokenSettings(), name):
			v.fail("capture", "token requests depend on the setting %s: an answer must not change it", name)
		}
	}
}

// maxCaptured bounds the value of a captured setting, in bytes: records have to fit the store.
const maxCaptured = 4 << 10

// Errors of [Definition.CheckCaptured], besides a [*SettingError].
var (
	errNotDeclared = errors.New("the connector does not declare the setting, or it is sensitive")
	errTooLong     = fmt.Errorf("the value is longer than %d bytes", maxCaptured)
)

// CheckCaptured returns an error if a setting must not take a value from an answer, given the
// connection's other settings. The error does not contain the value.
func (d *Definition) CheckCaptured(settings map[string]any, name, value string) error {
	s := d.setting(name)
	if s == nil || s.Sensitive {
		return errNotDeclared
	}
	if len(value) > maxCaptured {
		return errTooLong
	}
	with := maps.Clone(settings)
	if with == nil {
		with = make(map[string]any, 1)
	}
	with[name] = value
	if s.Origin { // also where no URL begins with it
		if _, _, err := d.parseOrigin(name, with); err != nil {
			return err
		}
	}
	return d.CheckSettings(with)
}
