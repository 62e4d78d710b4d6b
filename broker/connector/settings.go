package connector

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

const maxSettingName = 64

// A SettingError says which of a connection's settings is not valid for its connector. It
// never contains the setting's value.
type SettingError struct {
	Connector ID
	Setting   string
	Fault     string // "is missing"
}

// Error implements error.
func (e *SettingError) Error() string {
	return fmt.Sprintf("connector %s: setting %s %s", e.Connector, e.Setting, e.Fault)
}

func (d *Definition) settingError(name, fault string) *SettingError {
	return &SettingError{Connector: d.ID, Setting: name, Fault: fault}
}

const faultMissing = "is missing"

// IsMissing reports whether the setting is missing altogether.
func (e *SettingError) IsMissing() bool { return e.Fault == faultMissing }

// MissingSettings returns the names of the settings that a connection needs and lacks: those
// that are required, or stand in a URL or a token request, or are injected into requests.
// Null and the empty string count as missing. A setting with a default is never missing.
func (d *Definition) MissingSettings(settings map[string]any) []string {
	if len(d.Settings) == 0 {
		return nil
	}
	needed := d.neededSettings()
	var missing []string
	for _, s := range d.Settings {
		if s.Default != "" || !s.Required && !slices.Contains(needed, s.Name) {
			continue
		}
		if v := settings[s.Name]; v == nil || v == "" {
			missing = append(missing, s.Name)
		}
	}
	return missing
}

func (d *Definition) neededSettings() []string {
	names := d.tokenTemplateSettings()
	if t, err := d.urlTemplate(d.BaseURL); err == nil {
		names = append(names, t.settings()...)
	}
	for i := range d.Inject {
		names = append(names, d.Inject[i].settings()...)
	}
	return names
}

// CheckSettings returns a [*SettingError] for a setting that is not valid where the
// definition puts it: in a URL, a token request or a request to the API. A missing setting
// is not an error.
func (d *Definition) CheckSettings(settings map[string]any) error {
	checks := []func() error{
		func() error { _, err := d.RenderTokenParams(settings); return err },
		func() error { _, err := d.RenderTokenHeaders(settings); return err },
	}
	for _, p := range d.Placements() {
		checks = append(checks, func() error { _, err := d.injection(&p, settings, "any"); return err })
	}
	if secret, ok := settings[settingClientSecret]; ok && secret != "" && d.TakesClient() && d.setting(settingClientSecret) != nil {
		if id := settings[settingClientID]; id == nil || id == "" {
			return d.settingError(settingClientID, "is missing, but there is a client_secret: a connection has both or neither")
		}
	}
	for _, s := range d.urls() {
		if s != "" {
			checks = append(checks, func() error { _, err := d.renderURL(s, settings); return err })
		}
	}
	for _, check := range checks {
		if fault, ok := errors.AsType[*SettingError](check()); ok && !fault.IsMissing() {
			return fault
		}
	}
	return nil
}

// separators removes what may separate the words of a setting's name. To build a replacer
// takes longer than to use it.
var separators = strings.NewReplacer("_", "", "-", "", ".", "", " ", "")

// secretWords are substrings of the names of secrets.
var secretWords = []string{"secret", "token", "password", "passwd", "passphrase", "apikey", "privatekey", "credential"}

// IsSensitive reports whether the setting is a secret. For a declared setting the
// declaration says so. Imports may bring settings that no connector declares: those are
// secrets if their names contain a word for one (secret, token, password, passwd, passphrase,
// api key, private key, credential; in any case and with any separators).
func (d *Definition) IsSensitive(name string) bool {
	if s := d.setting(name); s != nil {
		return s.Sensitive
	}
	plain := separators.Replace(strings.ToLower(name))
	return slices.ContainsFunc(secretWords, func(w string) bool { return strings.Contains(plain, w) })
}

func (d *Definition) setting(name string) *Setting {
	i := slices.IndexFunc(d.Settings, func(s Setting) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &d.Settings[i]
}

// settingText returns a setting, or its default, as text. Numbers are accepted: some account ids arrive as
// numbers.
func (d *Definition) settingText(name string, settings map[string]any) (string, error) {
	text := ""
	switch v := settings[name].(type) {
	case nil:
	case string:
		text = v
	case json.Number:
		text = v.String()
	case int:
		text = strconv.Itoa(v)
	case int64:
		text = strconv.FormatInt(v, 10)
	case float64:
		if v != math.Trunc(v) {
			return "", d.settingError(name, "must be a string")
		}
		text = strconv.FormatFloat(v, 'f', -1, 64)
	default:
		return "", d.settingError(name, "must be a string")
	}
	if s := d.setting(name); text == "" && s != nil {
		text = s.Default
	}
	if text == "" {
		return "", d.settingError(name, faultMissing)
	}
	return text, nil
}

// validSettingName reports whether s is a letter a-z, followed by a-z, 0-9 and underscores.
func validSettingName(s string) bool {
	if s == "" || len(s) > maxSettingName || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

// labelFor makes "Realm ID" from "realm_id".
func labelFor(name string) string {
	words := strings.Split(strings.ReplaceAll(name, "-", "_"), "_")
	for i, w := range words {
		switch {
		case w == "id" || w == "url" || w == "api":
			words[i] = strings.ToUpper(w)
		case i == 0 && w != "":
			words[i] = strings.ToUpper(w[:1]) + w[1:]
		}
	}
	return strings.Join(words, " ")
}
