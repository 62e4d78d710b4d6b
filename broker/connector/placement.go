package connector

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// ownHeaders are the headers that belong to a connection or to the framing of a
// message (RFC 9110 section 7.6.1, RFC 9112), so nothing may be injected there.
var ownHeaders = []string{
	"Connection", "Content-Length", "Expect", "Host", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// validateFormat allows one %s and, since a stray percent sign is a mistake more
// often than not, no other.
func validateFormat(format string) error {
	switch {
	case strings.Count(format, "%") != 1 || strings.Count(format, "%s") != 1:
		return errors.New("must have one %s, and no other %")
	case hasControl(format) || !httpguts.ValidHeaderFieldValue(format):
		return errors.New("must not have control characters in it")
	}
	return nil
}

// place names what a placement writes to, so that two that write to the same are
// found.
func (p *Placement) place() string {
	switch p.Kind {
	case InBasic:
		return "header Authorization"
	case InQuery, InCookie:
		return string(p.Kind) + " " + p.Name
	default:
		return "header " + http.CanonicalHeaderKey(p.Name)
	}
}

// username returns the text of a user name, where {setting} stands for a setting.
func (p *Placement) username() string { return textOf(p.Setting, p.Username) }

// password returns the text of a password, likewise.
func (p *Placement) password() string { return textOf(p.PasswordSetting, p.Password) }

func textOf(setting, literal string) string {
	if setting != "" {
		return "{" + setting + "}"
	}
	return literal
}

// settings are the settings that the placement takes values from.
func (p *Placement) settings() []string {
	if p.Kind != InBasic {
		if p.Setting == "" {
			return nil
		}
		return []string{p.Setting}
	}
	var names []string
	for _, s := range []string{p.username(), p.password()} {
		if t, err := parseText(s); err == nil {
			names = append(names, t.settings()...)
		}
	}
	return names
}

// validate reports what is wrong with the placement itself.
func (p *Placement) validate() error {
	if p.Kind == InBasic {
		return p.validateBasic()
	}
	switch p.Kind {
	case InHeader:
		if !httpguts.ValidHeaderFieldName(p.Name) {
			return fmt.Errorf("header name %q is not a token: use letters, digits and hyphens", p.Name)
		}
		if slices.Contains(ownHeaders, http.CanonicalHeaderKey(p.Name)) {
			return fmt.Errorf("header %s belongs to the connection: choose another", p.Name)
		}
		if http.CanonicalHeaderKey(p.Name) == "Cookie" {
			return errors.New("header Cookie is written by inject cookie: use that")
		}
		if p.Format != "" {
			if err := validateFormat(p.Format); err != nil {
				return fmt.Errorf("the format of header %s %w", p.Name, err)
			}
		}
	case InQuery:
		if p.Name == "" || hasControl(p.Name) {
			return errors.New("query needs the parameter's name")
		}
	case InCookie:
		if !httpguts.ValidHeaderFieldName(p.Name) { // a token, as names of headers are (RFC 6265 section 4.1.1)
			return fmt.Errorf("cookie name %q is not a token: use letters, digits, hyphens and underscores", p.Name)
		}
	default:
		return fmt.Errorf("%q is not header, query, basic or cookie", p.Kind)
	}
	if p.Kind != InHeader && p.Format != "" {
		return fmt.Errorf("%s takes no format", p.Kind)
	}
	if p.PasswordSetting != "" || p.Username != "" || p.Password != "" {
		return errors.New("only basic has a user name and a password")
	}
	return nil
}

func (p *Placement) validateBasic() error {
	if p.Name != "" || p.Format != "" {
		return errors.New("basic takes neither name nor format")
	}
	if p.Setting != "" && p.Username != "" || p.PasswordSetting != "" && p.Password != "" {
		return errors.New("basic takes a setting or a text, not both")
	}
	for _, half := range []struct{ name, text string }{{"user name", p.username()}, {"password", p.password()}} {
		t, err := parseText(half.text)
		if err != nil {
			return fmt.Errorf("the %s of basic %w", half.name, err)
		}
		if hasControl(half.text) {
			return fmt.Errorf("the %s of basic must not have control characters in it", half.name)
		}
		if half.name == "user name" && strings.Contains(t.with(""), ":") {
			return errors.New("the user name of basic must not have a colon in it (RFC 7617 section 2)")
		}
	}
	if len(p.settings()) == 0 {
		return errors.New("basic needs a setting at least, for the user name or the password")
	}
	return nil
}
