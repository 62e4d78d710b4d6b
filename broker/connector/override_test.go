package connector

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"
)

// TestEachMemberIsOverriddenAndCloned holds for members that are yet to come.
func TestEachMemberIsOverriddenAndCloned(t *testing.T) {
	t.Parallel()
	var full Definition
	if err := json.Unmarshal([]byte(whole), &full); err != nil {
		t.Fatal(err)
	}
	v := reflect.ValueOf(full)
	for _, field := range definitionFields {
		if v.FieldByIndex(field.Index).IsZero() {
			t.Errorf("%s is not in the file with every member", field.Name)
		}
	}
	if got := Override(Definition{}, full); !reflect.DeepEqual(got, full) {
		t.Errorf("over nothing: got %+v", got)
	}
	if got := Override(full, Definition{}); !reflect.DeepEqual(got, full) {
		t.Errorf("with nothing: got %+v", got)
	}

	clone := reflect.ValueOf(full.Clone())
	for _, field := range definitionFields {
		original, copied := v.FieldByIndex(field.Index), clone.FieldByIndex(field.Index)
		if kind := original.Kind(); (kind == reflect.Slice || kind == reflect.Map) && original.UnsafePointer() == copied.UnsafePointer() {
			t.Errorf("%s is shared with the clone", field.Name)
		}
	}
}

func TestMembersAreThoseThatAreSet(t *testing.T) {
	t.Parallel()
	d, err := ParseFile([]byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for name, text := range d.Members() {
		got[name] += text + "\n"
	}
	for name, want := range map[string]string{
		"id": "crm/acme\n", "grant_type": "password\n", "token_params": "scope a b\ntenant {tenant}\n", "permanent_error": "expired\n",
		"configuration_error": "wrong_client\n", "transient_error": "~too often\n", "early_error": "not_due\n", "refresh_margin": "30s\n",
		"refresh_rate": "50/s\n", "refresh_concurrency": "16\n", "probe_path": "/{tenant}/me\n",
		"rotation": "window 30m0s\n", "keep_alive": "720h0m0s\n", "refresh_token": "optional\n", "hosts": "acme.test *.acme.test\n",
		"settings": "tenant\nkey\nsite\nusername\npassword\n", "allow_private": "true\n",
	} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %q", name, got[name], want)
		}
	}
	bare := Definition{ID: d.ID, AuthType: None, AllowHosts: []string{"acme.test"}}
	var names []string
	for name := range bare.Members() {
		names = append(names, name)
	}
	if want := []string{"id", "auth_type", "hosts"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
}
