package connector

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// A text is a template: literal text with settings in braces, "bot{token}".
type text []textPart

type textPart struct {
	literal string
	setting string // instead of literal
}

func parseText(s string) (text, error) {
	var t text
	for s != "" {
		literal, rest, open := strings.Cut(s, "{")
		if strings.Contains(literal, "}") {
			return nil, errors.New("has a } without {")
		}
		if literal != "" {
			t = append(t, textPart{literal: literal})
		}
		if !open {
			break
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed || !validSettingName(name) {
			return nil, errors.New("has a { that does not begin a {setting}")
		}
		t = append(t, textPart{setting: name})
		s = after
	}
	return t, nil
}

func (t text) settings() []string {
	var names []string
	for _, p := range t {
		if p.setting != "" {
			names = append(names, p.setting)
		}
	}
	return names
}

// render returns the text with each setting replaced by what value returns for it.
func (t text) render(value func(setting string) (string, error)) (string, error) {
	var b strings.Builder
	for _, p := range t {
		if p.setting == "" {
			b.WriteString(p.literal)
			continue
		}
		v, err := value(p.setting)
		if err != nil {
			return "", err
		}
		b.WriteString(v)
	}
	return b.String(), nil
}

// with returns the text with each setting replaced by value.
func (t text) with(value string) string {
	s, _ := t.render(func(string) (string, error) { return value, nil })
	return s
}

// A urlTemplate is the parsed form of a URL such as token_url or base_url. A setting in it
// can change one label of the host, one segment of the path, or, if it is an origin, scheme
// and host together; nothing else.
type urlTemplate struct {
	origin string // the setting that stands for scheme and host, if there is one
	scheme string
	host   text
	fixed  hostPort // host and port; zero if a setting decides the host
	port   string
	path   []text // the segments after the first "/", nil: no path
	query  string // with "?"
}

var errNoOrigin = errors.New("must begin with https:// or with an origin {setting}")

// parseURLTemplate reads "https://{subdomain}.example.com/v1/{account}" or
// "{instance_url}/v1".
func parseURLTemplate(s string) (*urlTemplate, error) {
	if strings.ContainsAny(s, ` \`) || hasControl(s) {
		return nil, errors.New("has a space, a backslash or a control character")
	}
	if strings.Contains(s, "#") {
		return nil, errors.New("must not have a fragment")
	}
	t := &urlTemplate{}
	rest, query, hasQuery := strings.Cut(s, "?")
	if hasQuery {
		if strings.ContainsAny(query, "{}") {
			return nil, errors.New("must not have a {setting} in the query")
		}
		t.query = "?" + query
	}
	if scheme, after, ok := strings.Cut(rest, "://"); ok {
		t.scheme = strings.ToLower(scheme)
		var authority string
		authority, rest = cutAuthority(after)
		if err := t.parseAuthority(authority); err != nil {
			return nil, err
		}
	} else {
		var authority string
		authority, rest = cutAuthority(rest)
		name := strings.TrimSuffix(strings.TrimPrefix(authority, "{"), "}")
		if authority != "{"+name+"}" || !validSettingName(name) {
			return nil, errNoOrigin
		}
		t.origin = name
	}
	return t, t.parsePath(rest)
}

func cutAuthority(s string) (authority, path string) {
	if i := strings.IndexByte(s, '/'); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}

func (t *urlTemplate) parseAuthority(s string) error {
	if t.scheme != "https" && t.scheme != "http" {
		return errors.New("must begin with https://")
	}
	if strings.Contains(s, "@") {
		return errors.New("must not have a user name or password")
	}
	host, port, _ := strings.Cut(s, ":")
	if strings.HasPrefix(s, "[") { // IPv6, which has colons of its own
		host, port = s[:strings.IndexByte(s, ']')+1], ""
	}
	if strings.ContainsAny(port, "{}") {
		return errors.New("must not have a {setting} as its port")
	}
	var err error
	if t.host, err = parseText(host); err != nil {
		return err
	}
	hp, err := parseHostPort(t.host.with("x") + s[len(host):]) // any label will do
	if err != nil {
		return fmt.Errorf("%q %w", s, err)
	}
	t.port = hp.port
	if len(t.host.settings()) == 0 {
		t.host, t.fixed = text{{literal: hp.bracketed()}}, hp
		return nil
	}
	// The end of a host name decides who owns it.
	if t.fixedSuffix() == "" {
		return errors.New("must end its host with a literal domain: https://{setting}.example.com")
	}
	return nil
}

// fixedSuffix returns the whole labels that follow the last setting of the host.
func (t *urlTemplate) fixedSuffix() string {
	last := t.host[len(t.host)-1]
	_, suffix, ok := strings.Cut(last.literal, ".")
	if last.setting != "" || !ok {
		return ""
	}
	return strings.ToLower(strings.TrimSuffix(suffix, "."))
}

func (t *urlTemplate) parsePath(s string) error {
	if s == "" {
		return nil
	}
	for segment := range strings.SplitSeq(s[1:], "/") {
		parsed, err := parseText(segment)
		if err != nil {
			return err
		}
		for _, p := range parsed {
			if _, err := url.PathUnescape(p.literal); err != nil {
				return errors.New("has a % in its path that does not begin a percent-encoded byte")
			}
		}
		if isDotSegment(segment) {
			return errors.New("must not have . or .. in its path")
		}
		t.path = append(t.path, parsed)
	}
	return nil
}

// isDotSegment reports whether servers take the segment for "." or "..".
func isDotSegment(s string) bool {
	decoded, err := url.PathUnescape(s)
	return err == nil && (decoded == "." || decoded == "..")
}

// isHostTemplated reports whether a setting decides the host.
func (t *urlTemplate) isHostTemplated() bool { return t.fixed.host == "" }

// hostSettings returns the settings that decide the host.
func (t *urlTemplate) hostSettings() []string {
	if t.origin != "" {
		return []string{t.origin}
	}
	return t.host.settings()
}

// settings returns all settings of the template.
func (t *urlTemplate) settings() []string {
	names := t.hostSettings()
	for _, segment := range t.path {
		names = append(names, segment.settings()...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
