package connector

// templates holds the parsed form of a definition's templates and host patterns, keyed by
// source text, so that requests need not parse them. Keyed like that, nothing stale is ever
// found in it: a definition whose text has changed since is simply parsed again. It is
// immutable, so copies of the definition share it.
type templates struct {
	urls       map[string]*urlTemplate
	texts      map[string]text
	hosts      map[string]hostPattern
	placements []Placement // the definition's Inject, with its defaults
}

// parseTemplates parses all templates of the definition. Those with a syntax error are left
// out: they are parsed again at each use, which returns the error.
func (d *Definition) parseTemplates() *templates {
	t := &templates{
		urls: make(map[string]*urlTemplate), texts: make(map[string]text), hosts: make(map[string]hostPattern),
		placements: d.Inject,
	}
	for _, s := range d.urls() {
		if u, err := parseURLTemplate(s); err == nil && s != "" {
			t.urls[s] = u
		}
	}
	for _, s := range d.AllowHosts {
		if h, err := readHostPattern(s); err == nil {
			t.hosts[s] = h
		}
	}
	for _, s := range d.texts() {
		if parsed, err := parseText(s); err == nil {
			t.texts[s] = parsed
		}
	}
	return t
}

// urls returns the definition's URL templates, in the order of [Destinations].
func (d *Definition) urls() [4]string {
	return [...]string{d.BaseURL, d.TokenURL, d.RefreshURL, d.RevocationURL}
}

// texts returns the definition's other templates.
func (d *Definition) texts() []string {
	var texts []string
	for _, templates := range []map[string]string{d.TokenParams, d.TokenHeaders} {
		for _, s := range templates {
			texts = append(texts, s)
		}
	}
	for i := range d.Inject {
		p := &d.Inject[i]
		texts = append(texts, p.username(), p.password())
	}
	return texts
}

func (d *Definition) urlTemplate(s string) (*urlTemplate, error) {
	if s == "" { // most definitions lack a URL
		return nil, errNoOrigin
	}
	if d.templates != nil {
		if t := d.templates.urls[s]; t != nil {
			return t, nil
		}
	}
	return parseURLTemplate(s)
}

func (d *Definition) text(s string) (text, error) {
	if d.templates != nil {
		if t, ok := d.templates.texts[s]; ok {
			return t, nil
		}
	}
	return parseText(s)
}

func (d *Definition) hostPattern(s string) (hostPattern, error) {
	if d.templates != nil {
		if h, ok := d.templates.hosts[s]; ok {
			return h, nil
		}
	}
	return readHostPattern(s)
}
