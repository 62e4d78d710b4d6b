package connector

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// maxFile bounds a connector file, in bytes.
const maxFile = 1 << 20

// ParseFile reads a connector file: one JSON object, the JSON form of a [Definition].
// docs/connectors.md explains its members. Unknown and repeated ones are errors. The
// definition has its defaults and obeys all rules of [Definition.Validate].
func ParseFile(b []byte) (Definition, error) {
	f, err := decodeFile(b)
	if err != nil {
		return Definition{}, err
	}
	d, err := f.definition()
	if err != nil {
		return Definition{}, err
	}
	if err := f.checkFile(&d); err != nil {
		return Definition{}, err
	}
	d = d.WithDefaults()
	return d, d.Validate()
}

// checkFile checks the rules of connector files alone.
func (f *definitionJSON) checkFile(d *Definition) error {
	if err := d.ID.Validate(); err != nil {
		return fmt.Errorf("id: %w", err)
	}
	if !isUnset(f.KeepAlive) && d.KeepAlive <= 0 {
		return fmt.Errorf("keep_alive: %s is not a duration above zero, such as 720h", f.KeepAlive)
	}
	for i, p := range d.Inject {
		if p.Kind == InBasic && p.PasswordSetting == "" && f.Inject[i].Password == nil {
			return errors.New(`inject: basic needs password_setting, or a password that is not a secret ("" for none)`)
		}
	}
	return nil
}

// ReadDir reads the connector files of a directory: those whose names end in .json, except
// hidden ones. It returns the definitions and the path of each one's file. Errors name the
// file and the member. Two files for one connector are an error.
func ReadDir(dir string) (defs map[ID]Definition, paths map[ID]string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	defs, paths = make(map[ID]Definition), make(map[ID]string)
	for _, entry := range entries {
		if name := entry.Name(); filepath.Ext(name) != ".json" || strings.HasPrefix(name, ".") || entry.IsDir() {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		d, err := readFile(path)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", path, err)
		}
		if other, ok := paths[d.ID]; ok {
			return nil, nil, fmt.Errorf("%s: id: %s is also in %s: remove one", path, d.ID, other)
		}
		defs[d.ID], paths[d.ID] = d, path
	}
	return defs, paths, nil
}

func readFile(path string) (Definition, error) {
	f, err := os.Open(path)
	if err != nil {
		return Definition{}, errors.Unwrap(err) // it has no path: the caller adds it
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Definition{}, errors.Unwrap(err)
	}
	if len(b) > maxFile {
		return Definition{}, fmt.Errorf("is longer than %d bytes", maxFile)
	}
	return ParseFile(b)
}

func decodeFile(b []byte) (*definitionJSON, error) {
	if err := checkRepeated(b); err != nil {
		return nil, err
	}
	var f definitionJSON
	if err := decodeStrictly(b, &f); err != nil {
		return nil, explain(b, err)
	}
	return &f, nil
}

// explain turns a JSON error into one that names the member or the line.
func explain(b []byte, err error) error {
	line := func(offset int64) int { return 1 + bytes.Count(b[:min(offset, int64(len(b)))], []byte("\n")) }
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("line %d: is not valid JSON: %w", line(syntax.Offset), err)
	}
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("line %d: %s", line(kind.Offset), typeFault(kind))
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("is not valid JSON: it ends too early")
	}
	return withoutPrefix(err)
}

// withoutPrefix returns an error of encoding/json, such as that of an unknown field, without
// the package's name.
func withoutPrefix(err error) error { return errors.New(strings.TrimPrefix(err.Error(), "json: ")) }

// checkRepeated returns an error if an object has a member twice: encoding/json would
// silently take the last.
func checkRepeated(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	var seen []map[string]bool // the members of each open object; nil for an open list
	key := false               // the next string is a member's name
	// A syntax error ends the loop; decoding reports it.
	for tok, err := dec.Token(); err == nil; tok, err = dec.Token() {
		switch tok := tok.(type) {
		case json.Delim:
			switch tok {
			case '{':
				seen = append(seen, map[string]bool{})
			case '[':
				seen = append(seen, nil)
			default:
				seen = seen[:len(seen)-1]
			}
			key = len(seen) > 0 && seen[len(seen)-1] != nil
			continue
		case string:
			if key {
				if seen[len(seen)-1][tok] {
					return fmt.Errorf("%s: appears twice: remove one", tok)
				}
				seen[len(seen)-1][tok] = true
				key = false
				continue
			}
		}
		key = len(seen) > 0 && seen[len(seen)-1] != nil
	}
	return nil
}
