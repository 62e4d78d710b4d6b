package connector

import (
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// This file is the text of `token-broker connectors`.

// Members returns the members of the definition that are set, as text for people: the name
// in the Caddyfile's words, and the value. A member with several values comes several times.
func (d *Definition) Members() iter.Seq2[string, string] {
	return func(yield func(name, text string) bool) {
		v := reflect.ValueOf(d).Elem()
		for _, field := range definitionFields {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			lines := textOf(v.FieldByIndex(field.Index))
			switch name {
			case "allow_hosts":
				name, lines = "hosts", []string{strings.Join(d.Hosts(), " ")}
			case "refresh_token_optional":
				name, lines = "refresh_token", slices.Repeat([]string{"optional"}, len(lines))
			case "permanent_errors", "configuration_errors", "transient_errors", "early_errors":
				name = strings.TrimSuffix(name, "s")
			case "token_headers":
				name = "token_header"
			case "headers":
				name = "header"
			case "expired_statuses":
				name = "expired_status"
			case "expired_bodies":
				name = "expired_body"
			}
			for _, line := range lines {
				if line != "" && !yield(name, line) {
					return
				}
			}
		}
	}
}

// textOf returns the value of a member as text, a line each. There is none if it is not set.
func textOf(v reflect.Value) []string {
	if v.IsZero() {
		return nil
	}
	switch value := v.Interface().(type) {
	case []string:
		return []string{strings.Join(value, " ")}
	case map[string]string:
		var lines []string
		for _, name := range slices.Sorted(maps.Keys(value)) {
			lines = append(lines, name+" "+value[name])
		}
		return lines
	case []int:
		return []string{strings.Trim(fmt.Sprint(value), "[]")}
	case []ExpiredBody:
		var lines []string
		for _, e := range value {
			lines = append(lines, e.String())
		}
		return lines
	case []Placement:
		var lines []string
		for _, p := range value {
			lines = append(lines, p.String())
		}
		return lines
	case []Setting:
		var lines []string
		for _, s := range value {
			lines = append(lines, s.Name)
		}
		return lines
	default:
		return []string{fmt.Sprint(value)}
	}
}

// Hosts returns the hosts that the credential may go to, for people: that of base_url, with
// settings in braces, and those of allow_host. If base_url begins with an origin setting, its
// host is one of the latter.
func (d *Definition) Hosts() []string {
	var hosts []string
	if t, err := d.urlTemplate(d.BaseURL); err == nil && t.origin == "" {
		var b strings.Builder
		for _, p := range t.host {
			if p.setting != "" {
				b.WriteString("{" + p.setting + "}")
			} else {
				b.WriteString(p.literal)
			}
		}
		if t.port != "" {
			b.WriteString(":" + t.port)
		}
		hosts = append(hosts, b.String())
	}
	for _, s := range d.AllowHosts {
		if !slices.Contains(hosts, s) {
			hosts = append(hosts, s)
		}
	}
	return hosts
}

// ExampleSetting returns a placeholder value for a setting that is valid wherever the
// setting stands.
func (d *Definition) ExampleSetting(name string) string {
	example := "your-" + strings.ReplaceAll(name, "_", "-")
	if s := d.setting(name); s == nil || !s.Origin {
		return example[:min(len(example), 63)] // a label of a host name
	}
	for _, pattern := range d.AllowHosts {
		if rest, wildcard := strings.CutPrefix(pattern, "*."); wildcard {
			return "https://your-account." + rest
		}
	}
	if len(d.AllowHosts) > 0 {
		return "https://" + d.AllowHosts[0]
	}
	return "https://" + example
}
