package connector

import (
	"reflect"
	"slices"
)

// Override returns base, such as a catalogue entry, with each field that over sets in place
// of base's. A field with its zero value is not set, so a switch that base turns on stays
// on. Lists, and token_params, are replaced as a whole.
//
// A token_url or base_url on another host is not bound to base's hosts: allow_host must be
// given with it where the default is too narrow.
func Override(base, over Definition) Definition {
	merged, over := base.Clone(), over.Clone()
	to, from := reflect.ValueOf(&merged).Elem(), reflect.ValueOf(&over).Elem()
	for _, field := range definitionFields {
		if value := from.FieldByIndex(field.Index); !value.IsZero() {
			to.FieldByIndex(field.Index).Set(value)
		}
	}
	return merged
}

// definitionFields are the exported fields of a definition.
var definitionFields = slices.DeleteFunc(reflect.VisibleFields(reflect.TypeFor[Definition]()), func(f reflect.StructField) bool {
	return !f.IsExported()
})

// Clone returns a deep copy.
func (d *Definition) Clone() Definition {
	c := *d
	v := reflect.ValueOf(&c).Elem()
	for _, field := range definitionFields {
		switch f := v.FieldByIndex(field.Index); {
		case f.Kind() == reflect.Slice && !f.IsNil():
			list := reflect.MakeSlice(f.Type(), f.Len(), f.Len())
			reflect.Copy(list, f)
			f.Set(list)
		case f.Kind() == reflect.Map && !f.IsNil():
			m := reflect.MakeMapWithSize(f.Type(), f.Len())
			for entry := f.MapRange(); entry.Next(); {
				m.SetMapIndex(entry.Key(), entry.Value())
			}
			f.Set(m)
		}
	}
	return c
}
