package record_test

import (
	"errors"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestInputErrorSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]*record.InputError{
		"settings.tenant is required":                            {Field: "settings.tenant"},
		"credentials.expires_in must not be negative: send more": {Field: "credentials.expires_in", Fault: "must not be negative", Fix: "send more"},
		"the body is empty":                                      {Fault: "the body is empty"},
	} {
		if got := err.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestTokenErrorSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	t.Parallel()
	const prefix = "no valid token for connection app/jane/crm/acme: "
	for want, err := range map[string]*record.TokenError{
		prefix + "transient":                           {Class: record.ClassTransient},
		prefix + "transient (http_503)":                {Class: record.ClassTransient, Code: "http_503", FirstRefresh: true},
		prefix + "transient: the store is unavailable": {Class: record.ClassTransient, Err: record.ErrStoreUnavailable},
		prefix + "permanent (invalid_grant); authorise the connection again and import it": {
			Class: record.ClassPermanent, Code: record.CodeInvalidGrant, Parked: true,
		},
		prefix + "permanent (invalid_grant); this was the first refresh since the import: " +
			"the grant may have been refreshed elsewhere since it was exported; authorise the connection again and import it": {
			Class: record.ClassPermanent, Code: record.CodeInvalidGrant, Parked: true, FirstRefresh: true,
		},
	} {
		err.Key = acme
		if got := err.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if errors.Is(err, record.ErrStoreUnavailable) != (err.Err != nil) {
			t.Errorf("%q: the cause is lost", want)
		}
	}
}

func TestConnectionNotFoundNamesTheServiceAndNotTheConsumer(t *testing.T) {
	t.Parallel()
	err := record.ConnectionNotFound(acme)
	if got, want := err.Error(), "no such connection to crm/acme: import it first"; got != want || !errors.Is(err, record.ErrConnectionNotFound) {
		t.Errorf("got %q, want %q", got, want)
	}
}
