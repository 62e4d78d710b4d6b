package connector

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net/url"
	"strings"
	"sync/atomic"
)

// A Target is the URL of a caller's request, with settings of the connection in it:
// "https://{subdomain}.example.com/v1/{account}?team={team}". What a setting can change
// depends on where it stands, as in base_url: one label of the host, one segment of the
// path, or one value of the query. A setting that stands for scheme and host must be
// declared as origin. Braces around anything but a name are literal.
type Target struct {
	base  *urlTemplate // scheme, host and port; shared and immutable
	path  []targetPart
	query []targetPart // nil: no query

	literals [2]targetPart // memory of path and query if they have no settings: saves allocations
}

// A targetPart is literal text, percent-encoded, or a setting.
type targetPart struct{ literal, setting string }

// ParseTarget reads a caller's URL. It appends morePath, which is percent-encoded already,
// to the path, and moreQuery to the query. Bytes that a URL must not have there, such as
// spaces, are percent-encoded. Anything that could lead elsewhere than it appears to is an
// error: user names, backslashes, fragments, and "." and ".." in any encoding.
func ParseTarget(s, morePath, moreQuery string) (*Target, error) {
	if hasControl(s) {
		return nil, errors.New("has a control character")
	}
	if strings.Contains(s, "#") {
		return nil, errors.New("has a fragment, which is never sent: percent-encode the # as %23, or leave it out")
	}
	rest, query, hasQuery := strings.Cut(s, "?")
	t := &Target{}
	path, err := t.parseOrigin(rest)
	if err != nil {
		return nil, err
	}
	if t.path, err = parseTargetPath(t.literals[0:0:1], path, morePath); err != nil {
		return nil, err
	}
	if hasQuery || moreQuery != "" {
		t.query = parseTargetText(t.literals[1:1:2], query, queryBytes)
	}
	if moreQuery != "" {
		if query != "" {
			moreQuery = "&" + moreQuery
		}
		t.query = append(t.query, targetPart{literal: encodeExcept(moreQuery, queryBytes)})
	}
	return t, nil
}

// parseOrigin reads scheme and host and returns the rest.
func (t *Target) parseOrigin(s string) (path string, err error) {
	scheme, after, ok := strings.Cut(s, "://")
	if ok && !strings.ContainsAny(scheme, "{}/") {
		var authority string
		authority, path = cutAuthority(after)
		if strings.ContainsAny(authority, `\% `) {
			return "", errors.New("has a backslash, a percent sign or a space in its host")
		}
		t.base, err = readAuthority(strings.ToLower(scheme), authority)
		return path, err
	}
	authority, path := cutAuthority(s)
	name, ok := strings.CutPrefix(authority, "{")
	name, closed := strings.CutSuffix(name, "}")
	if !ok || !closed || !isTargetSetting(name) {
		return "", errors.New("must begin with https:// or with a {setting} that the connector declares as origin")
	}
	t.base = &urlTemplate{origin: name}
	return path, nil
}

// authorities caches the authorities that were parsed lately, by hash: targets have few
// hosts, and parsing one costs more than the rest of a target.
var (
	authorities    [256]atomic.Pointer[cachedAuthority]
	authoritiesKey = maphash.MakeSeed()
)

// A cachedAuthority is the immutable template of a scheme and an authority.
type cachedAuthority struct {
	authority string
	template  urlTemplate
}

// maxAuthority is the length, in bytes, up to which authorities are cached.
const maxAuthority = 128

func readAuthority(scheme, authority string) (*urlTemplate, error) {
	slot := &authorities[maphash.String(authoritiesKey, authority)%uint64(len(authorities))]
	if known := slot.Load(); known != nil && known.authority == authority && known.template.scheme == scheme {
		return &known.template, nil
	}
	parsed := &cachedAuthority{authority: strings.Clone(authority)} // must not keep the request's header alive
	parsed.template.scheme = strings.Clone(scheme)
	if err := parsed.template.parseAuthority(parsed.authority); err != nil {
		return nil, err
	}
	if len(authority) <= maxAuthority {
		slot.Store(parsed)
	}
	return &parsed.template, nil
}

func parseTargetPath(parts []targetPart, path, more string) ([]targetPart, error) {
	if strings.Contains(path, `\`) {
		return nil, errors.New("has a backslash in its path: percent-encode it as %5C")
	}
	parts = parseTargetText(parts, path, pathBytes)
	if more != "" {
		if n := len(parts); n > 0 {
			parts[n-1].literal = strings.TrimSuffix(parts[n-1].literal, "/")
		}
		parts = append(parts, targetPart{literal: "/" + encodeExcept(strings.TrimPrefix(more, "/"), pathBytes)})
	}
	for _, p := range parts {
		if _, err := url.PathUnescape(p.literal); err != nil {
			return nil, errors.New("has a % in its path that does not begin a percent-encoded byte")
		}
	}
	return parts, nil
}

// parseTargetText parses a path or query and appends its parts: there is always a literal,
// possibly empty, at the beginning, between settings and at the end.
func parseTargetText(parts []targetPart, s string, allowed *byteSet) []targetPart {
	if !strings.Contains(s, "{") {
		return append(parts, targetPart{literal: encodeExcept(s, allowed)})
	}
	var literal strings.Builder
	for s != "" {
		before, after, open := strings.Cut(s, "{")
		literal.WriteString(encodeExcept(before, allowed))
		if !open {
			break
		}
		// Stop at the next brace of either kind: scanning for the next } from every { would be quadratic.
		name, rest, closed := after, "", false
		if i := strings.IndexAny(after, "{}"); i >= 0 {
			name, rest, closed = after[:i], after[i+1:], after[i] == '}'
		}
		if !closed || !isTargetSetting(name) {
			literal.WriteString("%7B")
			s = after
			continue
		}
		parts = append(parts, targetPart{literal: literal.String()}, targetPart{setting: name})
		literal.Reset()
		s = rest
	}
	return append(parts, targetPart{literal: literal.String()})
}

// isTargetSetting reports whether {s} in a target stands for a setting. Imports can bring
// settings that no connector declares, whose names may be longer and have capitals.
func isTargetSetting(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20 // lower case
		if (c < 'a' || c > 'z') && s[i] != '_' && (i == 0 || (s[i] < '0' || s[i] > '9') && s[i] != '-' && s[i] != '.') {
			return false
		}
	}
	return s != ""
}

// HasSettings reports whether the URL depends on a connection's settings.
func (t *Target) HasSettings() bool {
	return t.hostHasSettings() || hasTargetSetting(t.path) || hasTargetSetting(t.query)
}

func (t *Target) hostHasSettings() bool {
	return t.base.origin != "" || len(t.base.host.settings()) > 0
}

func hasTargetSetting(parts []targetPart) bool {
	for _, p := range parts {
		if p.setting != "" {
			return true
		}
	}
	return false
}

// MayAllow reports whether any connection of the connector may send its credential to the
// target. [Definition.AllowsHost] says whether a given one may.
func (d *Definition) MayAllow(t *Target) bool {
	if t.hostHasSettings() {
		return true
	}
	scheme, host, err := d.renderHost(t.base, nil)
	if err != nil {
		return false
	}
	if d.AllowsHost(scheme, authority(host), nil) == nil {
		return true
	}
	base, err := parseURLTemplate(d.BaseURL)
	if err != nil {
		return false
	}
	if base.origin != "" {
		return d.inAllowHosts(host, scheme, true)
	}
	return len(base.host.settings()) > 0 && scheme == base.scheme && strings.HasSuffix("."+host.host, "."+base.fixedSuffix())
}

// RenderTarget returns the URL for a connection with these settings. A setting that is
// missing, not valid there or a secret is a [*SettingError].
func (d *Definition) RenderTarget(t *Target, settings map[string]any) (*url.URL, error) {
	scheme, host, err := d.renderTargetHost(t, settings)
	if err != nil {
		return nil, err
	}
	path, err := d.renderTargetText(t.path, settings, pathValue)
	if err != nil {
		return nil, err
	}
	if hasDotSegment(path) {
		return nil, errors.New("must not have . or .. in its path, in any encoding")
	}
	query := ""
	if t.query != nil {
		if query, err = d.renderTargetText(t.query, settings, queryValue); err != nil {
			return nil, err
		}
	}
	if isPlainPath(path) && query != "" == (t.query != nil) { // url.Parse would return the same
		return &url.URL{Scheme: scheme, Host: authority(host), Path: path, RawQuery: query}, nil
	}
	s := scheme + "://" + authority(host) + path
	if t.query != nil {
		s += "?" + query
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("is not a URL") // err would quote it, with the settings
	}
	return u, nil
}

// isPlainPath reports whether the path contains only bytes that are never escaped.
func isPlainPath(s string) bool {
	for i := range len(s) {
		if !plainPath[s[i]] {
			return false
		}
	}
	return s == "" || s[0] == '/'
}

func (d *Definition) renderTargetHost(t *Target, settings map[string]any) (string, hostPort, error) {
	for _, name := range t.base.hostSettings() {
		if err := d.checkTargetSetting(name); err != nil {
			return "", hostPort{}, err
		}
	}
	if name := t.base.origin; name != "" {
		if s := d.setting(name); s == nil || !s.Origin {
			return "", hostPort{}, d.settingError(name, "cannot stand for the host: the connector does not declare it as origin")
		}
	}
	scheme, host, err := d.renderHost(t.base, settings)
	if scheme == "https" && host.port == "443" || scheme == "http" && host.port == "80" {
		host.port = ""
	}
	return scheme, host, err
}

func (d *Definition) renderTargetText(
	parts []targetPart, settings map[string]any, encode func(string) (string, error),
) (string, error) {
	if len(parts) == 1 {
		return parts[0].literal, nil // a setting would have literals around it
	}
	var b strings.Builder
	for _, p := range parts {
		if p.setting == "" {
			b.WriteString(p.literal)
			continue
		}
		if err := d.checkTargetSetting(p.setting); err != nil {
			return "", err
		}
		value, err := d.settingText(p.setting, settings)
		if err != nil {
			return "", err
		}
		encoded, err := encode(value)
		if err != nil {
			return "", d.settingError(p.setting, err.Error())
		}
		if b.Len()+len(encoded) > maxRendered {
			return "", d.settingError(p.setting, fmt.Sprintf("makes the URL longer than %d bytes", maxRendered))
		}
		b.WriteString(encoded)
	}
	return b.String(), nil
}

// maxRendered bounds the path and the query of a rendered target, in bytes each. A setting
// can be long and stand in a header a hundred thousand times; no server takes URLs of such a
// length.
const maxRendered = 1 << 20

// checkTargetSetting refuses secrets. A caller may not see them, but could have them sent to
// a place that echoes them. Only the connector decides where secrets go.
func (d *Definition) checkTargetSetting(name string) error {
	if d.IsSensitive(name) {
		return d.settingError(name, "is a secret, and secrets go only where the connector injects them")
	}
	return nil
}

func pathValue(s string) (string, error) {
	if strings.ContainsAny(s, `/\`) || hasControl(s) {
		return "", errors.New("must be one segment of a path, without slashes and control characters")
	}
	return url.PathEscape(s), nil
}

func queryValue(s string) (string, error) {
	if hasControl(s) {
		return "", errors.New("must not have control characters")
	}
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20"), nil
}

func authority(h hostPort) string {
	if h.port == "" {
		return h.bracketed()
	}
	return h.bracketed() + ":" + h.port
}
