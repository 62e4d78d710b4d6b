package connector

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// A PlacementKind is the part of a request that a credential is put in.
type PlacementKind string

// The kinds of placement.
const (
	InHeader PlacementKind = "header"
	InQuery  PlacementKind = "query"
	InBasic  PlacementKind = "basic" // the Authorization header (RFC 7617)
	InCookie PlacementKind = "cookie"
)

// A Placement puts one credential into a request.
type Placement struct {
	// The part of the request: `header`, `query`, `basic` or `cookie`. In connector files
	// the member is called kind.
	Kind PlacementKind `json:"in"`

	// The name of the header, query parameter or cookie. Not with `basic`.
	Name string `json:"name,omitempty"`

	// With `header`: the value, with one `%s` for the credential, such as `Bearer %s`.
	// Default: `%s`.
	Format string `json:"format,omitempty"`

	// The setting that the value comes from; with `basic`, the user name. Default: the
	// access token, or the setting api_key if the auth type is apiKey.
	Setting string `json:"setting,omitempty"`

	// With `basic`: the setting that the password comes from.
	PasswordSetting string `json:"password_setting,omitempty"`

	// With `basic`, in place of setting: text with settings in braces, `{email}/token`. Its
	// literal parts are not secrets: many services take an API key as the user name, with any
	// password or none.
	Username string `json:"username,omitempty"`

	// With `basic`, in place of password_setting: text with settings in braces. Its literal
	// parts are not secrets. Default: an empty password, which connector files have to spell
	// out.
	Password string `json:"password,omitempty"`
}

// String describes to people where a credential goes: "header X-Key: {api_key}".
func (p Placement) String() string {
	value := "<access token>"
	if p.Setting != "" {
		value = "{" + p.Setting + "}"
	}
	switch p.Kind {
	case InBasic:
		orEmpty := func(s string) string { return cmp.Or(s, "(empty)") }
		return fmt.Sprintf("header Authorization: Basic, user name %s, password %s", orEmpty(p.username()), orEmpty(p.password()))
	case InHeader:
		if p.Format != "" {
			value = strings.Replace(p.Format, "%s", value, 1)
		}
		return fmt.Sprintf("header %s: %s", p.Name, value)
	default:
		return fmt.Sprintf("%s %s=%s", p.Kind, p.Name, value)
	}
}

// connectionHeaders are the headers that belong to a connection or to the framing of a
// message (RFC 9110 section 7.6.1, RFC 9112). Nothing may be injected there.
var connectionHeaders = []string{
	"Connection", "Content-Length", "Expect", "Host", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// validateFormat allows exactly one %s and no other percent sign, which would most likely
// be a mistake.
func validateFormat(format string) error {
	switch {
	case strings.Count(format, "%") != 1 || strings.Count(format, "%s") != 1:
		return errors.New("must have one %s, and no other %")
	case hasControl(format) || !httpguts.ValidHeaderFieldValue(format):
		return errors.New("must not have control characters")
	}
	return nil
}

// slot names the part of a request that the placement writes to. Each has one writer.
func (p *Placement) slot() string {
	switch p.Kind {
	case InBasic:
		return "header Authorization"
	case InQuery, InCookie:
		return string(p.Kind) + " " + p.Name
	default:
		return "header " + http.CanonicalHeaderKey(p.Name)
	}
}

// username returns the template of the user name.
func (p *Placement) username() string { return settingOrText(p.Setting, p.Username) }

// password returns the template of the password.
func (p *Placement) password() string { return settingOrText(p.PasswordSetting, p.Password) }

func settingOrText(setting, text string) string {
	if setting != "" {
		return "{" + setting + "}"
	}
	return text
}

// settings returns the names of the settings that the placement takes values from.
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

// validate checks the placement by itself.
func (p *Placement) validate() error {
	if p.Kind == InBasic {
		return p.validateBasic()
	}
	switch p.Kind {
	case InHeader:
		if !httpguts.ValidHeaderFieldName(p.Name) {
			return fmt.Errorf("header name %q is not a token: use letters, digits and hyphens", p.Name)
		}
		if slices.Contains(connectionHeaders, http.CanonicalHeaderKey(p.Name)) {
			return fmt.Errorf("header %s belongs to the connection: choose another one", p.Name)
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
		if !httpguts.ValidHeaderFieldName(p.Name) { // RFC 6265 section 4.1.1: a token, as header names are
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
	for _, part := range []struct{ name, template string }{{"user name", p.username()}, {"password", p.password()}} {
		t, err := parseText(part.template)
		if err != nil {
			return fmt.Errorf("the %s of basic %w", part.name, err)
		}
		if hasControl(part.template) {
			return fmt.Errorf("the %s of basic must not have control characters", part.name)
		}
		if part.name == "user name" && strings.Contains(t.with(""), ":") {
			return errors.New("the user name of basic must not have a colon (RFC 7617 section 2)")
		}
	}
	if len(p.settings()) == 0 {
		return errors.New("basic needs a setting, for the user name or the password")
	}
	return nil
}
