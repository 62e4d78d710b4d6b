package connector

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// fields is a Definition without its methods.
type fields Definition

// definitionJSON decodes the JSON form of a definition. It has only the members that have
// more than one spelling or are not encoded as their Go type; they take precedence over the
// fields. All other members are those of the fields.
//
// The documented spellings are those of connector files, which follow the Caddyfile. Caddy's
// JSON has always had others: refresh_token_optional, rotation as an object, inject[].in.
// Those are what the tags of the fields say, and what is emitted. All are read everywhere.
type definitionJSON struct {
	fields
	ID           string          `json:"id"`
	KeepAlive    json.RawMessage `json:"keep_alive"` // "720h", or nanoseconds
	Margin       json.RawMessage `json:"refresh_margin"`
	RefreshToken string          `json:"refresh_token"` // "optional": as refresh_token_optional
	Inject       []placementJSON `json:"inject"`
}

type placementJSON struct {
	Placement
	Kind     PlacementKind `json:"kind"` // as in
	Password *string       `json:"password"`
}

// UnmarshalJSON replaces d by the definition in its JSON form. Unknown members are errors. It
// neither sets defaults nor checks rules.
func (d *Definition) UnmarshalJSON(b []byte) error {
	var f definitionJSON
	if err := decodeStrictly(b, &f); err != nil {
		if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return errors.New(typeFault(kind))
		}
		return err
	}
	read, err := f.definition()
	if err == nil {
		*d = read
	}
	return err
}

// definition returns what f says.
func (f *definitionJSON) definition() (Definition, error) {
	var err error
	d := Definition(f.fields)
	if f.ID != "" {
		if d.ID, err = ParseID(f.ID); err != nil {
			return Definition{}, fmt.Errorf("id: %w", err)
		}
	}
	if d.KeepAlive, err = parseDurationJSON(f.KeepAlive); err != nil {
		return Definition{}, fmt.Errorf("keep_alive: %w, such as 720h", err)
	}
	if d.RefreshMargin, err = parseDurationJSON(f.Margin); err != nil {
		return Definition{}, fmt.Errorf("refresh_margin: %w, such as 30s", err)
	}
	switch f.RefreshToken {
	case "":
	case "optional":
		d.RefreshTokenOptional = true
	default:
		return Definition{}, fmt.Errorf(`refresh_token: %q: the only allowed value is "optional"`, f.RefreshToken)
	}
	if len(d.Settings) == 0 {
		d.Settings = nil // an empty list overrides nothing
	}
	for i := range f.Inject {
		p, err := f.Inject[i].placement()
		if err != nil {
			return Definition{}, err
		}
		d.Inject = append(d.Inject, p)
	}
	return d, nil
}

func (p *placementJSON) placement() (Placement, error) {
	out := p.Placement
	if p.Kind != "" {
		if out.Kind != "" && out.Kind != p.Kind {
			return Placement{}, fmt.Errorf("inject: kind is %q, but in is %q: they mean the same, remove one", p.Kind, out.Kind)
		}
		out.Kind = p.Kind
	}
	if p.Password != nil {
		out.Password = *p.Password
	}
	return out, nil
}

// typeFault says which member has the wrong JSON type: "allow_hosts: must not be a JSON string".
func typeFault(err *json.UnmarshalTypeError) string {
	// encoding/json names embedded structs too, which are not members.
	member := strings.NewReplacer("fields.", "", "Placement.", "").Replace(err.Field)
	fault := "must not be a JSON " + err.Value
	if member == "" {
		return fault
	}
	return member + ": " + fault
}

// decodeStrictly decodes one JSON value. Unknown members are errors.
func decodeStrictly(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("has data after the JSON object")
	}
	return nil
}
