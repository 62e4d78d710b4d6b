package transfer

import (
	"bytes"
	"encoding/json"
	"iter"
	"maps"
	"strings"
)

// columns are the values of a row by the name of their column. A value can hold JSON: a dot
// leads into it, as in credentials.access_token.
type columns struct {
	values map[string]any    // strings, [json.Number], bools, nil, objects and lists
	folded map[string]string // names by their folded form; nil until needed
}

// columns returns the values of the row.
func (r *Record) columns() (*columns, error) {
	c := &columns{}
	if r.header == nil {
		c.values = make(map[string]any)
		err := eachMember([]byte(r.text), func(name string, value json.RawMessage) error {
			decoded, err := decodeJSON(value)
			c.values[name] = decoded
			return err
		})
		if err != nil {
			return nil, &LineError{Line: r.Line, Err: err}
		}
	} else {
		c.values = make(map[string]any, len(r.header))
		for i, name := range r.header {
			c.values[name] = r.fields[i]
		}
		c.folded = r.folded
	}
	if c.values[memberRow] != nil && c.values[memberError] != nil { // a mended row
		delete(c.values, memberRow)
		delete(c.values, memberError)
	}
	return c, nil
}

// isFlat reports whether a JSON object has the columns of a CSV file, as a refused row of one does:
// their names have dots, or their values are JSON as text.
func (r *Record) isFlat() (flat bool) {
	_ = eachMember([]byte(r.text), func(name string, value json.RawMessage) error {
		switch name {
		case "credentials", "settings", "metadata":
			flat = flat || bytes.HasPrefix(value, []byte(`"`))
		default:
			flat = flat || strings.Contains(name, ".")
		}
		return nil
	})
	return flat
}

func decodeJSON(text []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, syntaxError(err)
	}
	return v, nil
}

// value returns the value at a path, or nil. An empty text counts as absent, and so does the
// \N of PostgreSQL's text format. Names match regardless of case and underscores if none
// is the same: frameworks and databases spell userId, user_id and userid.
func (c *columns) value(path string) any {
	if name, ok := c.name(path); ok {
		return present(c.values[name])
	}
	for i := len(path) - 1; i > 0; i-- {
		if path[i] != '.' {
			continue
		}
		if name, ok := c.name(path[:i]); ok {
			if inner := c.object(name); inner != nil {
				return inner.value(path[i+1:])
			}
		}
	}
	return nil
}

func present(v any) any {
	if text, ok := v.(string); ok && (strings.TrimSpace(text) == "" || text == `\N`) {
		return nil
	}
	return v
}

// name returns the name of the column that is meant.
func (c *columns) name(wanted string) (string, bool) {
	if _, ok := c.values[wanted]; ok {
		return wanted, true
	}
	if c.folded == nil {
		c.folded = foldAll(maps.Keys(c.values))
	}
	name, ok := c.folded[fold(wanted)]
	return name, ok
}

// foldAll returns names by their folded form. Of several with the same form it has the first in
// order.
func foldAll(names iter.Seq[string]) map[string]string {
	folded := make(map[string]string)
	for name := range names {
		if other, ok := folded[fold(name)]; !ok || name < other {
			folded[fold(name)] = name
		}
	}
	return folded
}

// fold returns a name in lower case, without underscores.
func fold(name string) string {
	return strings.ReplaceAll(strings.ToLower(name), "_", "")
}

// object returns the columns in a value that is a JSON object, or text that holds one. It is
// nil for another value.
func (c *columns) object(name string) *columns {
	switch v := c.values[name].(type) {
	case map[string]any:
		return &columns{values: v}
	case string:
		if !strings.HasPrefix(strings.TrimSpace(v), "{") {
			return nil
		}
		decoded, _ := decodeJSON([]byte(v)) // nil if it is no JSON
		if object, ok := decoded.(map[string]any); ok {
			c.values[name] = object // not parsed again
			return &columns{values: object}
		}
	}
	return nil
}

// text returns the text at a path, or an empty one. A number is text too; an object or
// a list is an error.
func (c *columns) text(path string) (string, error) {
	return textOf(path, c.value(path))
}

func textOf(path string, value any) (string, error) {
	switch v := value.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case bool:
		if v {
			return "true", nil
		}
		return "false", nil
	default:
		return "", rowError(ReasonField, "%s is an object or a list: it must be text", path)
	}
}
