package apideck

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestParseUpdateReadsWhatCanChange(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]record.Update{
		`{}`:                {},
		`{"enabled":true}`:  {Enabled: new(true)},
		`{"enabled":false}`: {Enabled: new(false)},
		`{"settings":{"a":null},"metadata":{"b":"c"}}`:                                           {Settings: map[string]any{"a": nil}, Metadata: map[string]any{"b": "c"}},
		`{"enabled":null,"settings":null,"credentials":null}`:                                    {},
		`{"id":"crm+acme","state":7,"form_fields":[{}]}`:                                         {},
		`{"configuration":[],"latest_consent":{}, "consent_state": "" , "custom_mappings":null}`: {},
	} {
		got, err := ParseUpdate([]byte(body))
		if err != nil {
			t.Errorf("%s: %v", body, err)
		} else if !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: got %+v, want %+v", body, *got, want)
		}
	}
}

func TestParseUpdateRejectsBadInput(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]struct {
		kind  record.InputKind
		field string
	}{
		``:                                {record.InputSyntax, ""},
		`[]`:                              {record.InputSyntax, ""},
		`{"enabled":"true"}`:              {record.InputSyntax, "enabled"},
		`{"enabled":1}`:                   {record.InputSyntax, "enabled"},
		`{"settings":[]}`:                 {record.InputSyntax, "settings"},
		`{"metadata":"x"}`:                {record.InputSyntax, "metadata"},
		`{"enabled":true,"enabled":true}`: {record.InputSyntax, "enabled"},
		`{"id":"a","id":"b"}`:             {record.InputSyntax, "id"},
		`{"credentials":{}}`:              {record.InputSyntax, "credentials"},
		`{"setting":{}}`:                  {record.InputSyntax, `"setting"`},
		`{"consent_state":"denied"}`:      {record.InputInvalid, "consent_state"},
		`{"configuration":[{}]}`:          {record.InputInvalid, "configuration"},
	} {
		up, err := ParseUpdate([]byte(body))
		if up != nil {
			t.Errorf("%s: got %+v along with the error", body, up)
		}
		wantInputError(t, err, want.kind, want.field)
	}
}

// Callers need not see the thirty members that are ignored.
func TestErrorListsTheMembersThatCanChange(t *testing.T) {
	t.Parallel()
	_, err := ParseUpdate([]byte(`{"x":1}`))
	if err == nil || !strings.HasSuffix(err.Error(), ": known are enabled, metadata, settings") {
		t.Errorf("got %v, want a list of enabled, metadata and settings", err)
	}
}

func TestParseEmpty(t *testing.T) {
	t.Parallel()
	for body, ok := range map[string]bool{
		"": true, " \n": true, "{}": true, " { } ": true,
		"null": false, "[]": false, `{"a":1}`: false, "{} {}": false, "\xff": false, "{": false,
	} {
		err := ParseEmpty([]byte(body))
		if _, bad := errors.AsType[*record.InputError](err); bad == ok || (err == nil) != ok {
			t.Errorf("%q: got %v, want accepted %v", body, err, ok)
		}
	}
}

func FuzzParseUpdate(f *testing.F) {
	f.Add([]byte(`{"enabled": true, "settings": {"a": {"type": "x"}}, "metadata": null, "form_fields": [1]}`))
	f.Add([]byte(`{"configuration": [ ], "consent_state": "denied"}`))
	f.Add([]byte(`{"enabled": 1e400}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		up, err := ParseUpdate(body)
		var input *record.InputError
		if (up == nil) != (err != nil) || err != nil && !errors.As(err, &input) {
			t.Errorf("got %v, %v", up, err)
		}
		if err := ParseEmpty(body); err != nil && !errors.As(err, &input) {
			t.Errorf("as an empty body: got %v", err)
		}
	})
}

func TestObjectsHaveAMaximumDepth(t *testing.T) {
	t.Parallel()
	nested := func(depth int) []byte {
		return []byte(`{"metadata": ` + strings.Repeat(`{"a": [`, depth/2) + strings.Repeat(`]}`, depth/2) + `}`)
	}
	if _, err := ParseUpdate(nested(100)); err != nil {
		t.Errorf("100 deep: got %v", err)
	}
	for _, depth := range []int{102, 9_000} {
		_, err := ParseUpdate(nested(depth))
		wantInputError(t, err, record.InputSyntax, "metadata")
		_, err = ParseImport(nested(depth))
		wantInputError(t, err, record.InputSyntax, "metadata")
	}
}
