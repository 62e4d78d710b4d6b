package connector

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

const maxSettingName = 64

// A SettingError says which of a connection's settings does not fit its connector.
// It never has the setting's value in it.
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

// MissingSettings returns the names of the settings that a connection must have and
// does not: those that are required, or part of base_url or token_url. Null and the
// empty string count as missing.
func (d *Definition) MissingSettings(settings map[string]any) []string {
	needed := d.urlSettings()
	var missing []string
	for _, s := range d.Settings {
		if !s.Required && !slices.Contains(needed, s.Name) {
			continue
		}
		if v := settings[s.Name]; v == nil || v == "" {
			missing = append(missing, s.Name)
		}
	}
	return missing
}

func (d *Definition) urlSettings() []string {
	var names []string
	for _, s := range []string{d.BaseURL, d.TokenURL} {
		if t, err := parseURLTemplate(s); err == nil {
			names = append(names, t.settings()...)
		}
	}
	return names
}

// secretWords are parts of names that secrets go by.
var secretWords = []string{"secret", "token", "password", "passwd", "passphrase", "apikey", "privatekey", "credential"}

// IsSensitive reports whether the setting is a secret. For a declared setting the
// declaration says so. Imports may bring settings that no connector declares: those
// are secrets if their names sound like it (secret, token, password, passwd,
// passphrase, api key, private key, credential; in any case and with any separators).
func (d *Definition) IsSensitive(name string) bool {
	if s := d.setting(name); s != nil {
		return s.Sensitive
	}
	plain := strings.NewReplacer("_", "", "-", "", ".", "", " ", "").Replace(strings.ToLower(name))
	return slices.ContainsFunc(secretWords, func(w string) bool { return strings.Contains(plain, w) })
}

func (d *Definition) setting(name string) *Setting {
	i := slices.IndexFunc(d.Settings, func(s Setting) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &d.Settings[i]
}

// settingText returns a setting as text. Numbers are settings too: some account ids
// arrive as such.
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
	if text == "" {
		return "", d.settingError(name, "is missing")
	}
	return text, nil
}

// validSettingName reports whether s is a-z followed by a-z, 0-9 and underscores.
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
