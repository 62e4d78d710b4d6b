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
	"time"
)

// maxFile bounds a connector file, in bytes.
const maxFile = 1 << 20

// A file is the JSON form of a definition. Its members have the names of the
// configuration's words.
type file struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Website string `json:"website"`
	Source  string `json:"source"`
	Checked string `json:"checked"`

	AuthType        AuthType          `json:"auth_type"`
	GrantType       GrantType         `json:"grant_type"`
	TokenURL        string            `json:"token_url"`
	RefreshURL      string            `json:"refresh_url"`
	RevocationURL   string            `json:"revocation_url"`
	AuthStyle       AuthStyle         `json:"auth_style"`
	TokenBody       TokenBody         `json:"token_body"`
	TokenParams     map[string]string `json:"token_params"`
	Rotation        string            `json:"rotation"`      // "always", "never", "window 30m"
	KeepAlive       string            `json:"keep_alive"`    // "720h"
	RefreshToken    string            `json:"refresh_token"` // "optional"
	PermanentErrors []string          `json:"permanent_errors"`

	BaseURL      string          `json:"base_url"`
	AllowHosts   []string        `json:"allow_hosts"`
	AllowPrivate bool            `json:"allow_private"`
	Settings     []fileSetting   `json:"settings"`
	Inject       []filePlacement `json:"inject"`
}

type fileSetting struct {
	Name      string `json:"name"`
	Label     string `json:"label"`
	Required  bool   `json:"required"`
	Sensitive bool   `json:"sensitive"`
	Origin    bool   `json:"origin"`
}

type filePlacement struct {
	Kind            PlacementKind `json:"kind"`
	Name            string        `json:"name"`
	Format          string        `json:"format"`
	Setting         string        `json:"setting"`
	PasswordSetting string        `json:"password_setting"`
	Username        *string       `json:"username"`
	Password        *string       `json:"password"` // a pointer: basic says it if it is to be empty
}

// ParseFile reads a connector file: one JSON object, with the members that
// CONTRIBUTING.md explains. Unknown and repeated members are errors. The definition has
// its defaults and obeys all rules of [Definition.Validate].
func ParseFile(b []byte) (Definition, error) {
	f, err := decodeFile(b)
	if err != nil {
		return Definition{}, err
	}
	d, err := f.definition()
	if err != nil {
		return Definition{}, err
	}
	return d, d.Validate()
}

// ReadDir reads the connector files of a directory: those whose names end in .json,
// but for hidden ones. It returns the definitions and the path of each one's file.
// Errors name the file and the member. Two files for one connector are an error.
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
			return nil, nil, fmt.Errorf("%s: id: %s is that of %s too: remove one", path, d.ID, other)
		}
		defs[d.ID], paths[d.ID] = d, path
	}
	return defs, paths, nil
}

func readFile(path string) (Definition, error) {
	f, err := os.Open(path)
	if err != nil {
		return Definition{}, errors.Unwrap(err) // the path is named already
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

func decodeFile(b []byte) (*file, error) {
	if err := checkRepeated(b); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var f file
	if err := dec.Decode(&f); err != nil {
		return nil, explain(b, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("has data after the JSON object")
	}
	return &f, nil
}

// explain makes a JSON error one that names the member or the line.
func explain(b []byte, err error) error {
	line := func(offset int64) int { return 1 + bytes.Count(b[:min(offset, int64(len(b)))], []byte("\n")) }
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("line %d: is not valid JSON: %w", line(syntax.Offset), err)
	}
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("line %d: %s: must not be a JSON %s", line(kind.Offset), kind.Field, kind.Value)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("is not valid JSON: it ends too early")
	}
	return errors.New(strings.TrimPrefix(err.Error(), "json: ")) // unknown field "x"
}

// checkRepeated reports a member that an object has twice, of which encoding/json would
// take the last.
func checkRepeated(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	var seen []map[string]bool // of each object or list that is open; nil for lists
	key := false               // the next string is a member's name
	for {
		tok, err := dec.Token()
		if err != nil {
			return nil // broken JSON is found by whoever decodes it
		}
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
					return fmt.Errorf("%s: is there twice: remove one", tok)
				}
				seen[len(seen)-1][tok] = true
				key = false
				continue
			}
		}
		key = len(seen) > 0 && seen[len(seen)-1] != nil
	}
}

func (f *file) definition() (Definition, error) {
	id, err := ParseID(f.ID)
	if err != nil {
		return Definition{}, fmt.Errorf("id: %w", err)
	}
	rotation, err := parseRotation(f.Rotation)
	if err != nil {
		return Definition{}, err
	}
	if f.RefreshToken != "" && f.RefreshToken != "optional" {
		return Definition{}, fmt.Errorf("refresh_token: %q is not optional", f.RefreshToken)
	}
	d := Definition{
		ID: id, Name: f.Name, Website: f.Website, Source: f.Source, Checked: f.Checked,
		AuthType: f.AuthType, GrantType: f.GrantType,
		TokenURL: f.TokenURL, RefreshURL: f.RefreshURL, RevocationURL: f.RevocationURL,
		AuthStyle: f.AuthStyle, TokenBody: f.TokenBody, TokenParams: f.TokenParams,
		Rotation: rotation, RefreshTokenOptional: f.RefreshToken != "", PermanentErrors: f.PermanentErrors,
		BaseURL: f.BaseURL, AllowHosts: f.AllowHosts, AllowPrivate: f.AllowPrivate,
	}
	if f.KeepAlive != "" {
		if d.KeepAlive, err = time.ParseDuration(f.KeepAlive); err != nil || d.KeepAlive <= 0 {
			return Definition{}, fmt.Errorf("keep_alive: %q is not a duration above zero, such as 720h", f.KeepAlive)
		}
	}
	for _, s := range f.Settings {
		d.Settings = append(d.Settings, Setting(s))
	}
	for _, p := range f.Inject {
		placement, err := p.placement()
		if err != nil {
			return Definition{}, err
		}
		d.Inject = append(d.Inject, placement)
	}
	return d.WithDefaults(), nil
}

func (p *filePlacement) placement() (Placement, error) {
	if p.Kind == InBasic && p.PasswordSetting == "" && p.Password == nil {
		return Placement{}, errors.New(`inject: basic needs password_setting, or a password that is no secret ("" for none)`)
	}
	out := Placement{Kind: p.Kind, Name: p.Name, Format: p.Format, Setting: p.Setting, PasswordSetting: p.PasswordSetting}
	if p.Username != nil {
		out.Username = *p.Username
	}
	if p.Password != nil {
		out.Password = *p.Password
	}
	return out, nil
}

// parseRotation reads what stands after rotation in the configuration.
func parseRotation(s string) (Rotation, error) {
	kind, window, _ := strings.Cut(s, " ")
	r := Rotation{Kind: RotationKind(kind)}
	if window != "" {
		d, err := time.ParseDuration(window)
		if err != nil {
			return Rotation{}, fmt.Errorf("rotation: %q is not a duration, such as 30m", window)
		}
		r.Window = d
	}
	return r, nil
}
