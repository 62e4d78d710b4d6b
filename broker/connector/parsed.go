package connector

// A parsed has the meaning of a definition's texts, by text. Nothing changes it, so
// copies of the definition share it.
type parsed struct {
	urls       map[string]*urlTemplate
	texts      map[string]text
	hosts      map[string]hostPattern
	placements []Placement // the definition's Inject, all defaults in it
}

// parse reads all texts of the definition. What cannot be read is left out: whoever
// needs it reads it again, and gets the error.
func (d *Definition) parse() *parsed {
	p := &parsed{
		urls: make(map[string]*urlTemplate), texts: make(map[string]text), hosts: make(map[string]hostPattern),
		placements: d.Inject,
	}
	for _, s := range d.urls() {
		if t, err := parseURLTemplate(s); err == nil && s != "" {
			p.urls[s] = t
		}
	}
	for _, s := range d.AllowHosts {
		if h, err := readHostPattern(s); err == nil {
			p.hosts[s] = h
		}
	}
	for _, s := range d.texts() {
		if t, err := parseText(s); err == nil {
			p.texts[s] = t
		}
	}
	return p
}

// urls are the definition's URL templates, in an order of their own.
func (d *Definition) urls() [4]string {
	return [...]string{d.BaseURL, d.TokenURL, d.RefreshURL, d.RevocationURL}
}

// texts are the definition's other texts with settings in them.
func (d *Definition) texts() []string {
	var texts []string
	for _, s := range d.TokenParams {
		texts = append(texts, s)
	}
	for i := range d.Inject {
		p := &d.Inject[i]
		texts = append(texts, p.username(), p.password())
	}
	return texts
}

func (d *Definition) urlTemplate(s string) (*urlTemplate, error) {
	if d.parsed != nil {
		if t := d.parsed.urls[s]; t != nil {
			return t, nil
		}
	}
	return parseURLTemplate(s)
}

func (d *Definition) text(s string) (text, error) {
	if d.parsed != nil {
		if t, ok := d.parsed.texts[s]; ok {
			return t, nil
		}
	}
	return parseText(s)
}

func (d *Definition) hostPattern(s string) (hostPattern, error) {
	if d.parsed != nil {
		if h, ok := d.parsed.hosts[s]; ok {
			return h, nil
		}
	}
	return readHostPattern(s)
}
