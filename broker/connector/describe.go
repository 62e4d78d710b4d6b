package connector

import (
	"fmt"
	"slices"
	"strings"
)

// Hosts returns where the credential may go, for people: base_url's host, with settings
// in braces, and those of allow_host. With an origin setting these are where it may be.
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

// String says, for people, where a credential goes: "header X-Key: {api_key}".
func (p Placement) String() string {
	value := "<access token>"
	if p.Setting != "" {
		value = "{" + p.Setting + "}"
	}
	switch p.Kind {
	case InBasic:
		return fmt.Sprintf("header Authorization: Basic, user name %s, password %s", orNone(p.username()), orNone(p.password()))
	case InHeader:
		if p.Format != "" {
			value = strings.Replace(p.Format, "%s", value, 1)
		}
		return fmt.Sprintf("header %s: %s", p.Name, value)
	default:
		return fmt.Sprintf("%s %s=%s", p.Kind, p.Name, value)
	}
}

func orNone(s string) string {
	if s == "" {
		return "(empty)"
	}
	return s
}

// String returns what stands after rotation in the configuration.
func (r Rotation) String() string {
	if r.Window == 0 {
		return string(r.Kind)
	}
	return string(r.Kind) + " " + r.Window.String()
}

// ExampleSetting returns a value that a setting could have, which says that it is to be
// replaced and yet fits wherever the setting stands.
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
