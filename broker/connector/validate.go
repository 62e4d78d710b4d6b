package connector

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// Validate checks the definition, with its defaults, and reports every rule that it breaks.
// The errors name fields by their words in the Caddyfile (token_url, allow_host, inject) and
// say how to fix them.
func (d *Definition) Validate() error {
	full := d.WithDefaults()
	v := &validation{d: &full}
	if err := full.ID.Validate(); err != nil {
		v.errs = append(v.errs, err)
	}
	v.website("website", full.Website)
	v.website("source", full.Source)
	v.settings()
	v.defaults()
	v.auth()
	v.hosts()
	v.placements()
	v.callHeaders()
	return errors.Join(v.errs...)
}

type validation struct {
	d    *Definition
	errs []error
}

// fail records that the field breaks a rule.
func (v *validation) fail(field, format string, args ...any) {
	v.errs = append(v.errs, fmt.Errorf("connector %s: %s: %w", v.d.ID, field, fmt.Errorf(format, args...)))
}

func (v *validation) website(field, s string) {
	if s == "" {
		return
	}
	if u, err := url.Parse(s); err != nil || u.Scheme != "https" || u.Host == "" {
		v.fail(field, "must be an https URL")
	}
}

func (v *validation) settings() {
	seen := make(map[string]bool)
	for _, s := range v.d.Settings {
		if !validSettingName(s.Name) {
			v.fail("setting", "%q is not a name: use a lower-case letter, then lower-case letters, digits and underscores", s.Name)
		}
		if seen[s.Name] {
			v.fail("setting", "%s is declared twice: remove one", s.Name)
		}
		seen[s.Name] = true
		if s.Origin && s.Sensitive {
			v.fail("setting", "%s cannot be both origin and sensitive: a host is not a secret", s.Name)
		}
		if s.Default != "" && s.Sensitive {
			v.fail("setting", "%s is sensitive, and a secret has no default: remove it", s.Name)
		}
	}
	for _, s := range v.d.credentialSettings() {
		declared := v.d.setting(s.Name)
		if declared == nil {
			continue
		}
		if !declared.Required {
			with := "auth_type " + string(v.d.AuthType)
			if v.d.AuthType == OAuth2 {
				with = "grant_type " + string(v.d.GrantType)
			}
			v.fail("setting", "%s must be required with %s", s.Name, with)
		}
		if s.Sensitive && !declared.Sensitive {
			v.fail("setting", "%s must be sensitive: add the word", s.Name)
		}
	}
}

// defaults checks that the defaults of settings are valid where the settings stand.
func (v *validation) defaults() {
	if !slices.ContainsFunc(v.d.Settings, func(s Setting) bool { return s.Default != "" }) {
		return
	}
	if fault, ok := errors.AsType[*SettingError](v.d.CheckSettings(nil)); ok {
		v.fail("setting", "the default of %s %s", fault.Setting, fault.Fault)
	}
}

func (v *validation) auth() {
	switch v.d.AuthType {
	case OAuth2:
		v.oauth2()
		return
	case APIKey, Basic, Custom, None:
	case "":
		v.fail("auth_type", "is required: oauth2, apiKey, basic, custom or none")
	default:
		v.fail("auth_type", "%q is not one of oauth2, apiKey, basic, custom, none", v.d.AuthType)
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"token_url", v.d.TokenURL != ""},
		{"refresh_url", v.d.RefreshURL != ""},
		{"revocation_url", v.d.RevocationURL != ""},
		{"token_body", v.d.TokenBody != ""},
		{"token_params", len(v.d.TokenParams) > 0},
		{"token_method", v.d.TokenMethod != ""},
		{"token_header", len(v.d.TokenHeaders) > 0},
		{"answer", len(v.d.Answer) > 0},
		{"capture", len(v.d.Capture) > 0},
		{"expired_status", len(v.d.ExpiredStatuses) > 0},
		{"expired_body", len(v.d.ExpiredBodies) > 0},
		{"grant_type", v.d.GrantType != ""},
		{"auth_style", v.d.AuthStyle != ""},
		{"rotation", v.d.Rotation != Rotation{}},
		{"refresh_rate", v.d.RefreshRate != 0},
		{"refresh_concurrency", v.d.RefreshConcurrency != 0},
	} {
		if f.set {
			v.fail(f.name, "is for auth_type oauth2 only: remove it")
		}
	}
}

func (v *validation) oauth2() {
	if v.d.Grant().Type == "" {
		v.fail("grant_type", "%q is not one of %s", v.d.GrantType, strings.Join(grantTypes(), ", "))
	}
	switch v.d.AuthStyle {
	case AuthHeader, AuthHeaderRaw, AuthParams, AuthBoth:
	case "":
		v.fail("auth_style", "is required: header or params, as the service's documentation says (trying would spend a refresh token)")
	default:
		v.fail("auth_style", "%q is not one of header, header_raw, params, both", v.d.AuthStyle)
	}
	switch r := v.d.Rotation; {
	case r.Kind == RotationWindow && r.Window <= 0:
		v.fail("rotation", "window needs a duration above zero: window 30m")
	case r.Kind == RotationWindow:
	case r.Kind != RotationAlways && r.Kind != RotationNever:
		v.fail("rotation", "%q is not one of always, never, window", r.Kind)
	case r.Window != 0:
		v.fail("rotation", "only window takes a duration")
	}
	v.errorWords()
	if v.d.RefreshMargin < 0 {
		v.fail("refresh_margin", "must not be negative")
	}
	v.pace()
	v.tokenRequest()
	v.tokenHeaders()
	v.answer()
	v.capture()
	v.expired()
	if v.d.TokenURL == "" {
		v.fail("token_url", "is required with auth_type oauth2")
	}
	for _, u := range []struct{ field, template string }{
		{"token_url", v.d.TokenURL}, {"refresh_url", v.d.RefreshURL}, {"revocation_url", v.d.RevocationURL},
	} {
		if u.template != "" {
			v.url(u.field, u.template)
		}
	}
}

// errorWords checks that the token endpoint's own words say something, and only one thing.
func (v *validation) errorWords() {
	meanings := make(map[string]string)
	for _, list := range []struct {
		field string
		words []string
	}{
		{"permanent_error", v.d.PermanentErrors},
		{"configuration_error", v.d.ConfigurationErrors},
		{"transient_error", v.d.TransientErrors},
		{"early_error", v.d.EarlyErrors},
	} {
		for _, word := range list.words {
			key := strings.ToLower(word)
			switch other := meanings[key]; {
			case strings.TrimSpace(strings.TrimPrefix(word, "~")) == "":
				v.fail(list.field, "must not be empty")
			case other != "" && other != list.field:
				v.fail(list.field, "%s is also a %s: remove one", word, other)
			}
			meanings[key] = list.field
		}
	}
}

// url checks a URL template.
func (v *validation) url(field, s string) {
	t, err := parseURLTemplate(s)
	if err != nil {
		v.fail(field, "%w", err)
		return
	}
	if t.scheme == "http" && !v.d.AllowPrivate {
		v.fail(field, "must begin with https://, or set allow_private")
	}
	for _, name := range t.settings() {
		switch s := v.d.setting(name); {
		case s == nil && name == t.origin:
			v.fail(field, "begins with {%s}, which is not declared: add setting %s required origin", name, name)
		case s == nil:
			v.fail(field, "uses {%s}, which is not declared: add setting %s required", name, name)
		case s.Origin && name != t.origin:
			v.fail(field, "uses {%s}, which is an origin, after its beginning: begin with it", name)
		case !s.Origin && name == t.origin:
			v.fail(field, "begins with {%s}: declare setting %s origin", name, name)
		}
	}
	if t.origin != "" {
		return
	}
	if len(t.host.settings()) > 0 {
		v.templatedHost(field, t.fixedSuffix())
		return
	}
	if hp, err := parseHostPort(t.host.with("")); err == nil && hp.ip && !v.d.AllowPrivate {
		v.fail(field, "is on an IP address: use a name, or set allow_private")
	}
}

// templatedHost refuses hosts in which a setting decides the owner. Unlike with a wildcard,
// hosts below a private suffix such as myshopify.com are fine: the connection's settings
// name the one that is meant.
func (v *validation) templatedHost(field, domain string) {
	suffix, icann := publicsuffix.PublicSuffix(domain)
	if suffix == domain && (icann || !strings.Contains(domain, ".") && !v.d.AllowPrivate) {
		v.fail(field, "lets a setting choose among all hosts below %s: end the host with a domain of the service", domain)
	}
}

func (v *validation) hosts() {
	if v.d.BaseURL != "" {
		v.url("base_url", v.d.BaseURL)
		if strings.Contains(v.d.BaseURL, "?") {
			v.fail("base_url", "must not have a query")
		}
	}
	v.probe()
	for _, s := range v.d.AllowHosts {
		p, err := readHostPattern(s)
		if err == nil {
			err = p.check(v.d.AllowPrivate)
		}
		if err != nil {
			v.fail("allow_host", "%q %w", s, err)
		}
	}
	if v.d.BaseURL == "" && len(v.d.AllowHosts) == 0 {
		v.fail("base_url", "is required unless allow_host says where the credential may go")
	}
	for _, s := range v.d.Settings {
		if s.Origin && len(v.d.AllowHosts) == 0 {
			v.fail("allow_host", "is required with the origin setting %s: list the hosts that it may be on", s.Name)
		}
	}
}

func (v *validation) placements() {
	seen := make(map[string]bool)
	for _, p := range v.d.Inject {
		if err := p.validate(); err != nil {
			v.fail("inject", "%w", err)
			continue
		}
		if seen[p.slot()] {
			v.fail("inject", "writes to %s twice: remove one", p.slot())
		}
		seen[p.slot()] = true
		if len(p.settings()) == 0 && v.d.AuthType != OAuth2 {
			v.fail("inject", "%s needs a setting: auth_type %s has no access token", p.slot(), v.d.AuthType)
		}
		for _, name := range p.settings() {
			if v.d.setting(name) == nil {
				v.fail("inject", "uses the setting %s, which is not declared: add setting %s required", name, name)
			}
		}
	}
}
