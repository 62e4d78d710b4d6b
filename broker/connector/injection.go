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

// An Injection is what a placement puts into the requests of one connection, as long
// as its credentials stay the same.
type Injection struct {
	Kind PlacementKind // InHeader, InQuery or InCookie: what is basic is a header here
	Name string        // of a header, canonical; of a query parameter, not escaped; of a cookie
	// Value is the header's value as a whole, the query parameter's before it is escaped,
	// or the cookie's.
	Value string
	// Secrets are the parts of Value that responses are not to show.
	Secrets []string
}

// ErrNoAccessToken is the error of [Definition.Injections] if a placement needs an
// access token and there is none.
var ErrNoAccessToken = errors.New("there is no access token")

// Injections returns what the placements put into requests for a connection with
// these settings and this access token. The result depends on nothing else.
//
// A setting that is missing, or that cannot stand where it is to be put, is a
// [*SettingError]; so nothing with a control character in it is ever put anywhere,
// which would end a header line (RFC 9110 section 5.5).
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

// injectedText returns the value that a placement puts, if it can stand there.
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
		fault = "has a character in it that no cookie can carry (RFC 6265 section 4.1.1)"
	default:
		return value, nil
	}
	if p.Setting == "" {
		return "", fmt.Errorf("connector %s: the access token %s", d.ID, fault)
	}
	return "", d.settingError(p.Setting, fault)
}

const faultControl = "has a control character in it"

// notInCookie reports whether r is no cookie-octet.
func notInCookie(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`",;\`, r)
}

// renderBasic renders a user name and a password (RFC 7617).
func (d *Definition) renderBasic(p *Placement, settings map[string]any) (Injection, error) {
	injection := Injection{Kind: InHeader, Name: "Authorization"}
	var halves [2]string
	for i, s := range []string{p.username(), p.password()} {
		t, err := d.text(s)
		if err != nil {
			return Injection{}, err
		}
		if halves[i], err = t.render(func(setting string) (string, error) {
			value, err := d.credentialText(setting, settings)
			switch {
			case err != nil:
				return "", err
			case hasControl(value):
				return "", d.settingError(setting, faultControl)
			case i == 0 && strings.Contains(value, ":"):
				return "", d.settingError(setting, "has a colon in it, which no user name can have (RFC 7617 section 2)")
			}
			if i == 1 || d.IsSensitive(setting) {
				injection.Secrets = append(injection.Secrets, value)
			}
			return value, nil
		}); err != nil {
			return Injection{}, err
		}
	}
	credentials := base64.StdEncoding.EncodeToString([]byte(halves[0] + ":" + halves[1]))
	injection.Value = "Basic " + credentials
	injection.Secrets = append(injection.Secrets, credentials)
	return injection, nil
}

// credentialText is settingText for a value that need not fit a URL.
func (d *Definition) credentialText(name string, settings map[string]any) (string, error) {
	if b, ok := settings[name].(bool); ok {
		return strconv.FormatBool(b), nil
	}
	return d.settingText(name, settings)
}
