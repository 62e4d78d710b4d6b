package record

import (
	"reflect"
	"time"
)

// An Update is a caller's change to a connection. Fields that are nil were not sent and leave
// the stored values in place.
type Update struct {
	Enabled  *bool
	Settings map[string]any // JSON merge patch (RFC 7396)
	Metadata map[string]any // JSON merge patch (RFC 7396)
}

// Apply applies up to the record. It returns [ErrUnchanged] if that changes nothing, and an
// [*InputError] if the update is not allowed; after either, discard the record.
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
	if r.Cycle.Class == ClassRefused {
		r.Cycle.RetryAt = time.Time{} // perhaps because of the settings
	}
	if identity || conn.injectsOther(before.Settings, r.Settings) {
		r.Generation++
	}
	return nil
}

// sameObject reports whether two JSON objects are equal; nil equals the empty object.
func sameObject(a, b map[string]any) bool {
	return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b)
}
