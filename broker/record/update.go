package record

import (
	"errors"
	"reflect"
)

// ErrUnchanged ends an update that would save what is stored.
var ErrUnchanged = errors.New("the record is as it should be")

// Apply changes the record, which is the caller's own copy.
func (r *Record) Apply(conn *Connector, up *Update) error {
	before := r.Clone()
	if up.Enabled != nil {
		r.Enabled = *up.Enabled
	}
	bound, patch := r.binding(conn), conn.unmask(up.Settings)
	r.Settings = mergePatch(r.Settings, patch)
	r.Metadata = mergePatch(r.Metadata, up.Metadata)
	if r.Enabled == before.Enabled && sameObject(r.Settings, before.Settings) && sameObject(r.Metadata, before.Metadata) {
		return ErrUnchanged
	}
	if err := r.checkSize(); err != nil {
		return err
	}
	if sameObject(r.Settings, before.Settings) {
		return nil
	}
	if err := conn.checkFit(r.Settings); err != nil {
		return err
	}
	identity, err := bound.check(conn, r, patch, nil)
	if err != nil {
		return err
	}
	if identity || conn.injectsOther(before.Settings, r.Settings) {
		r.Generation++
	}
	return nil
}

// sameObject reports whether two JSON objects are the same; none is an empty one.
func sameObject(a, b map[string]any) bool {
	return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b)
}

// An Update is what a caller sends to change a connection. What is nil was not sent, and
// stays as it is stored.
type Update struct {
	Enabled  *bool
	Settings map[string]any // JSON merge patch (RFC 7396)
	Metadata map[string]any // JSON merge patch (RFC 7396)
}
