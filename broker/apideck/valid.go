package apideck

import (
	"encoding/json"
	"iter"
	"slices"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Members yields the members of a JSON object, with their names unquoted. The object must be
// valid JSON.
func Members(object []byte) iter.Seq2[string, json.RawMessage] {
	return func(yield func(string, json.RawMessage) bool) {
		rest := cursor(object)
		if rest.next() != '{' {
			return
		}
		for rest = rest[1:]; rest.next() == '"'; {
			name, err := unquote(rest.value())
			if err != nil || !yield(name, rest.value()) {
				return
			}
		}
	}
}

// ParseValidImport is [ParseImport] for a body that is known to be a JSON object in UTF-8.
func ParseValidImport(body []byte) (*record.Import, error) {
	if hasLoneSurrogate(body) {
		return nil, errLoneSurrogate("")
	}
	imp := &record.Import{}
	if err := eachValidMember("", body, namedImportMembers(imp), nil); err != nil {
		return nil, err
	}
	return imp, nil
}

// A nameSet is the names of an object's members. Most objects have few.
type nameSet struct {
	few   [12]string
	count int             // of few
	more  map[string]bool // the others
}

// add adds a name, and reports whether it is new.
func (s *nameSet) add(name string) bool {
	if slices.Contains(s.few[:s.count], name) {
		return false
	}
	if s.count < len(s.few) {
		s.few[s.count] = name
		s.count++
		return true
	}
	if s.more[name] {
		return false
	}
	if s.more == nil {
		s.more = make(map[string]bool)
	}
	s.more[name] = true
	return true
}
