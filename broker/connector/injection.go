package connector

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// An Injection is what a placement puts into the requests of one connection while its
// credentials stay the same.
type Injection struct {
	// Kind is InHeader, InQuery or InCookie. An InBasic placement yields an InHeader injection.
	Kind PlacementKind
	// Name is a header's canonical name, a query parameter's unescaped name, or a cookie's name.
	Name string
	// Value is the whole value of the header, the unescaped value of the query parameter, or
	// the value of the cookie.
	Value string
	// Secrets are the substrings of Value to redact from responses.
	Secrets []string
}

// ErrNoAccessToken is the error of [Definition.Injections] if a placement needs an access
// token and there is none.
var ErrNoAccessToken = errors.New("there is no access token")

// Injections returns what the placements put into requests for a connection with these
// settings and this access token. The result depends on nothing else.
//
// A setting that is missing, or not valid where it is placed, is a [*SettingError]. No value
// with a control character is ever injected: it would end a header line (RFC 9110 section
// 5.5).
func (d *Definition) Injections(settings map[string]any, accessToken string) ([]Injection, error) {
	placements := d.Placements()
	injections := make([]Injection, 0, len(placements))
	for i := range placements {
		injection, err := d.injection(&placements[i], settings, accessToken)
		if err != nil {
			return nil, err
		}
		injections = append(injections, injection)
	}
	return injections, nil
}

func (d *Definition) injection(p *Placement, settings map[string]any, accessToken string) (Injection, error) {
	if p.Kind == InBasic {
		return d.renderBasic(p, settings)
	}
	return d.renderValue(p, settings, accessToken)
}

// renderValue renders a placement of one value.
func (d *Definition) renderValue(p *Placement, settings map[string]any, accessToken string) (Injection, error) {
	value, err := d.injectedText(p, settings, accessToken)
	if err != nil {
		return Injection{}, err
	}
	injection := Injection{Kind: p.Kind, Name: p.Name, Value: value}
	if p.Setting == "" || p.Kind != InHeader || d.IsSensitive(p.Setting) {
		injection.Secrets = []string{value}
	}
	if p.Kind == InHeader {
		injection.Name = http.CanonicalHeaderKey(p.Name)
		if p.Format != "" {
			injection.Value = strings.Replace(p.Format, "%s", value, 1)
		}
	}
	return injection, nil
}

// injectedText returns the value that a placement injects, if it is valid there.
func (d *Definition) injectedText(p *Placement, settings map[string]any, accessToken string) (string, error) {
	value := accessToken
	if p.Setting != "" {
		var err error
		if value, err = d.credentialText(p.Setting, settings); err != nil {
			return "", err
		}
	} else if value == "" {
		return "", fmt.Errorf("connector %s: %w", d.ID, ErrNoAccessToken)
	}
	var fault string
	switch {
	case hasControl(value), p.Kind == InHeader && !httpguts.ValidHeaderFieldValue(value):
		fault = faultControl
	case p.Kind == InCookie && strings.ContainsFunc(value, notInCookie):
		fault = "has a character that no cookie can carry (RFC 6265 section 4.1.1)"
	default:
		return value, nil
	}
	if p.Setting == "" {
		return "", fmt.Errorf("connector %s: the access token %s", d.ID, fault)
	}
	return "", d.settingError(p.Setting, fault)
}

const faultControl = "has a control character"

// notInCookie reports whether r is not a cookie-octet.
func notInCookie(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`",;\`, r)
}

// renderBasic renders a user name and a password (RFC 7617).
func (d *Definition) renderBasic(p *Placement, settings map[string]any) (Injection, error) {
	injection := Injection{Kind: InHeader, Name: "Authorization"}
	username, err := d.renderBasicPart(p.username(), settings, func(setting, value string) error {
		if strings.Contains(value, ":") {
			return d.settingError(setting, "has a colon, which a user name cannot have (RFC 7617 section 2)")
		}
		if d.IsSensitive(setting) {
			injection.Secrets = append(injection.Secrets, value)
		}
		return nil
	})
	if err != nil {
		return Injection{}, err
	}
	password, err := d.renderBasicPart(p.password(), settings, func(_, value string) error {
		injection.Secrets = append(injection.Secrets, value)
		return nil
	})
	if err != nil {
		return Injection{}, err
	}
	credentials := base64.StdEncoding.EncodeToString([]byte(username + ":" + password))
	injection.Value = "Basic " + credentials
	injection.Secrets = append(injection.Secrets, credentials)
	return injection, nil
}

// renderBasicPart renders the template of a user name or a password. It hands each setting's
// value to check.
func (d *Definition) renderBasicPart(template string, settings map[string]any, check func(setting, value string) error) (string, error) {
	t, err := d.text(template)
	if err != nil {
		return "", err
	}
	return t.render(func(setting string) (string, error) {
		value, err := d.credentialText(setting, settings)
		if err != nil {
			return "", err
		}
		if hasControl(value) {
			return "", d.settingError(setting, faultControl)
		}
		return value, check(setting, value)
	})
}

// credentialText is settingText for values outside URLs, where booleans are accepted, too.
func (d *Definition) credentialText(name string, settings map[string]any) (string, error) {
	if b, ok := settings[name].(bool); ok {
		return strconv.FormatBool(b), nil
	}
	return d.settingText(name, settings)
}
