package connector

import (
	"errors"
	"strings"
)

// RenderTokenURL returns the token endpoint for a connection with these settings.
// A setting that is missing or not valid there is a [*SettingError].
func (d *Definition) RenderTokenURL(settings map[string]any) (string, error) {
	return d.renderURL(d.TokenURL, settings)
}

// RenderRefreshURL returns where the refresh token of a connection with these settings
// is redeemed: refresh_url, or else the token endpoint. A setting that is missing or not
// valid there is a [*SettingError].
func (d *Definition) RenderRefreshURL(settings map[string]any) (string, error) {
	if d.RefreshURL == "" {
		return d.RenderTokenURL(settings)
	}
	return d.renderURL(d.RefreshURL, settings)
}

// RenderRevocationURL returns where the tokens of a connection with these settings are
// revoked, empty if the definition has no revocation_url. A setting that is missing or not
// valid there is a [*SettingError].
func (d *Definition) RenderRevocationURL(settings map[string]any) (string, error) {
	if d.RevocationURL == "" {
		return "", nil
	}
	return d.renderURL(d.RevocationURL, settings)
}

// renderURL renders a template. In the host a setting is one DNS label or part of one; in
// the path it is one segment or part of one. A setting declared as origin stands for scheme
// and host. A setting's value never changes another part of the URL.
func (d *Definition) renderURL(s string, settings map[string]any) (string, error) {
	t, err := d.urlTemplate(s)
	if err != nil {
		return "", err
	}
	scheme, host, err := d.renderHost(t, settings)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(scheme + "://" + host.bracketed())
	if host.port != "" {
		b.WriteString(":" + host.port)
	}
	for _, segment := range t.path {
		rendered, err := d.renderSegment(segment, settings)
		if err != nil {
			return "", err
		}
		b.WriteString("/" + rendered)
	}
	b.WriteString(t.query)
	return b.String(), nil
}

// renderHost returns the scheme and the host that a request for the template goes to.
func (d *Definition) renderHost(t *urlTemplate, settings map[string]any) (scheme string, host hostPort, err error) {
	if t.origin != "" {
		return d.parseOrigin(t.origin, settings)
	}
	if !t.isHostTemplated() {
		return t.scheme, t.fixed, nil
	}
	name, err := t.host.render(func(setting string) (string, error) {
		value, err := d.settingText(setting, settings)
		if err != nil {
			return "", err
		}
		value = t.withoutDomain(strings.ToLower(value))
		if !validLabel(value) || strings.Contains(value, "_") {
			return "", d.settingError(setting, "must be one label of a host name: 1 to 63 letters, digits and inner hyphens")
		}
		return value, nil
	})
	if err != nil {
		return "", hostPort{}, err
	}
	if host, err = parseHostPort(name); err != nil {
		// Each part is valid, so the whole is too long.
		return "", hostPort{}, d.settingError(t.host.settings()[0], "makes the host name too long")
	}
	host.port = t.port
	return t.scheme, host, nil
}

// withoutDomain returns the first label of a host that a setting names in full. People have
// "acme.myshopify.com" at hand where the template "{shop}.myshopify.com" wants "acme".
func (t *urlTemplate) withoutDomain(value string) string {
	if len(t.host) == 2 && t.host[0].setting != "" {
		return strings.TrimSuffix(value, strings.ToLower(t.host[1].literal))
	}
	return value
}

func (d *Definition) renderSegment(segment text, settings map[string]any) (string, error) {
	last := ""
	rendered, err := segment.render(func(setting string) (string, error) {
		last = setting
		value, err := d.settingText(setting, settings)
		if err != nil {
			return "", err
		}
		if value, err = pathValue(value); err != nil {
			return "", d.settingError(setting, err.Error())
		}
		return value, nil
	})
	if err == nil && last != "" && isDotSegment(rendered) {
		err = d.settingError(last, "must not make a path segment . or ..")
	}
	return rendered, err
}

// parseOrigin reads a setting that is a whole origin (RFC 6454 section 4). Its host must be
// one of allow_host, since it alone decides where credentials go.
func (d *Definition) parseOrigin(name string, settings map[string]any) (scheme string, host hostPort, err error) {
	value, err := d.settingText(name, settings)
	if err != nil {
		return "", hostPort{}, err
	}
	scheme, host, err = splitOrigin(value)
	if err != nil {
		return "", hostPort{}, d.settingError(name, "must be a URL with nothing after its host: https://example.com")
	}
	if scheme != "https" && (scheme != "http" || !d.AllowPrivate) {
		return "", hostPort{}, d.settingError(name, "must begin with https://")
	}
	if host.ip && !d.AllowPrivate || !d.inAllowHosts(host, scheme, true) {
		return "", hostPort{}, d.settingError(name, "is on a host that allow_host does not list")
	}
	return scheme, host, nil
}

func splitOrigin(s string) (scheme string, host hostPort, err error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return "", hostPort{}, errors.New("no scheme")
	}
	// A URL with an empty path is often written with a slash.
	host, err = parseHostPort(strings.TrimSuffix(rest, "/"))
	return strings.ToLower(scheme), host, err
}

func hasControl(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return true
		}
	}
	return false
}
