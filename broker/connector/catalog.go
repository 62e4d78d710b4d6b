package connector

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"time"
)

// catalogFiles has one entry a file. What an entry says was looked up at its source;
// "checked" tells what was read there, and what was not found and assumed.
//
//go:embed catalog/*.json
var catalogFiles embed.FS

// Lookup returns the catalogue's entry for id. The caller owns it.
func Lookup(id ID) (Definition, bool) {
	d, ok := catalog()[id]
	return d.Clone(), ok
}

// Catalog returns all entries of the catalogue. The caller owns them.
func Catalog() map[ID]Definition {
	c := maps.Clone(catalog())
	for id, d := range c {
		c[id] = d.Clone()
	}
	return c
}

// catalog panics if an entry is not readable; a test reads them all.
var catalog = sync.OnceValue(func() map[ID]Definition {
	files, err := catalogFiles.ReadDir("catalog")
	if err != nil {
		panic(err)
	}
	c := make(map[ID]Definition, len(files))
	for _, f := range files {
		b, err := catalogFiles.ReadFile("catalog/" + f.Name())
		if err != nil {
			panic(err)
		}
		e, err := parseEntry(b)
		if err != nil {
			panic(fmt.Errorf("catalog/%s: %w", f.Name(), err))
		}
		d, err := e.definition()
		if err != nil {
			panic(fmt.Errorf("catalog/%s: %w", f.Name(), err))
		}
		c[d.ID] = d
	}
	return c
})

// An entry is the JSON form of a catalogue entry. Its members have the names of the
// configuration's words.
type entry struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Website string `json:"website"`
	Source  string `json:"source"`
	Checked string `json:"checked"`

	AuthType        AuthType  `json:"auth_type"`
	GrantType       GrantType `json:"grant_type,omitempty"`
	TokenURL        string    `json:"token_url,omitempty"`
	AuthStyle       AuthStyle `json:"auth_style,omitempty"`
	Rotation        string    `json:"rotation,omitempty"`      // "always", "never", "window 30m"
	RefreshToken    string    `json:"refresh_token,omitempty"` // "optional"
	PermanentErrors []string  `json:"permanent_errors,omitempty"`

	BaseURL    string           `json:"base_url"`
	AllowHosts []string         `json:"allow_hosts,omitempty"`
	Settings   []entrySetting   `json:"settings,omitempty"`
	Inject     []entryPlacement `json:"inject,omitempty"`
}

type entrySetting struct {
	Name      string `json:"name"`
	Label     string `json:"label,omitempty"`
	Required  bool   `json:"required,omitempty"`
	Sensitive bool   `json:"sensitive,omitempty"`
	Origin    bool   `json:"origin,omitempty"`
}

type entryPlacement struct {
	Kind            PlacementKind `json:"kind"`
	Name            string        `json:"name,omitempty"`
	Format          string        `json:"format,omitempty"`
	Setting         string        `json:"setting,omitempty"`
	PasswordSetting string        `json:"password_setting,omitempty"`
}

func parseEntry(b []byte) (*entry, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var e entry
	if err := dec.Decode(&e); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("data after the JSON object")
	}
	return &e, nil
}

func (e *entry) definition() (Definition, error) {
	id, err := ParseID(e.ID)
	if err != nil {
		return Definition{}, err
	}
	rotation, err := parseRotation(e.Rotation)
	if err != nil {
		return Definition{}, err
	}
	if e.RefreshToken != "" && e.RefreshToken != "optional" {
		return Definition{}, fmt.Errorf("refresh_token: %q is not optional", e.RefreshToken)
	}
	d := Definition{
		ID: id, Name: e.Name, Website: e.Website, Source: e.Source,
		AuthType: e.AuthType, GrantType: e.GrantType, TokenURL: e.TokenURL, AuthStyle: e.AuthStyle,
		Rotation: rotation, RefreshTokenOptional: e.RefreshToken != "", PermanentErrors: e.PermanentErrors,
		BaseURL: e.BaseURL, AllowHosts: e.AllowHosts,
	}
	for _, s := range e.Settings {
		d.Settings = append(d.Settings, Setting(s))
	}
	for _, p := range e.Inject {
		d.Inject = append(d.Inject, Placement(p))
	}
	return d.WithDefaults(), nil
}

// parseRotation reads what stands after rotation in the configuration.
func parseRotation(s string) (Rotation, error) {
	kind, window, _ := strings.Cut(s, " ")
	r := Rotation{Kind: RotationKind(kind)}
	if window != "" {
		d, err := time.ParseDuration(window)
		if err != nil {
			return Rotation{}, fmt.Errorf("rotation: %w", err)
		}
		r.Window = d
	}
	return r, nil
}
