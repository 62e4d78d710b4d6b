package broker_test

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// wantTokenError checks that err is a TokenError of the class, and returns a copy of it.
func wantTokenError(t *testing.T, err error, class record.Class) record.TokenError {
	t.Helper()
	failed, ok := errors.AsType[*record.TokenError](err)
	if !ok {
		t.Errorf("got %v, want a TokenError", err)
		return record.TokenError{}
	}
	if failed.Class != class {
		t.Errorf("got class %s (%v), want %s", failed.Class, err, class)
	}
	return *failed
}

// wantTokenErrorCode checks that err is a TokenError of the class and with the code.
func wantTokenErrorCode(t *testing.T, err error, class record.Class, code string) record.TokenError {
	t.Helper()
	failed := wantTokenError(t, err, class)
	if failed.Code != code {
		t.Errorf("got code %q (%v), want %q", failed.Code, err, code)
	}
	return failed
}

// wantParked checks that err is the TokenError of a parked connection.
func wantParked(t *testing.T, err error) record.TokenError {
	t.Helper()
	failed := wantTokenError(t, err, record.ClassPermanent)
	if !failed.Parked {
		t.Errorf("got %v, want the TokenError of a parked connection", err)
	}
	return failed
}

// wantInvalid checks that err is an InputError about a field that is invalid.
func wantInvalid(t *testing.T, err error, field string) {
	t.Helper()
	input, ok := errors.AsType[*record.InputError](err)
	if !ok {
		t.Errorf("got %v, want an InputError for %s", err, field)
		return
	}
	if input.Field != field {
		t.Errorf("got field %q (%v), want %s", input.Field, err, field)
	}
	if input.Kind != record.InputInvalid {
		t.Errorf("got kind %d (%v), want InputInvalid", input.Kind, err)
	}
}

// wantView checks the state and the health that a connection shows.
func (h *harness) wantView(key record.Key, state record.State, health record.Health) *record.Connection {
	h.t.Helper()
	view, err := h.Connection(h.t.Context(), key)
	if err != nil {
		h.t.Fatal(err)
	}
	if view.State != state {
		h.t.Errorf("got state %s, want %s", view.State, state)
	}
	if view.Health != health {
		h.t.Errorf("got health %s, want %s", view.Health, health)
	}
	return view
}

// A recordWant says what the stored record of a connection must have.
type recordWant struct {
	access, refresh string // how the tokens begin; empty: any
	generation      uint64 // 0: any
	ambiguous       int    // attempts with an ambiguous outcome
}

// wantRecord checks that the stored record has credentials as wanted, and no lease.
func (h *harness) wantRecord(key record.Key, want recordWant) *record.Record {
	h.t.Helper()
	rec := h.record(key)
	if rec.Credentials == nil {
		h.t.Fatalf("the record has no credentials: %+v", rec)
	}
	if got := rec.Credentials.AccessToken.Reveal(); !strings.HasPrefix(got, want.access) {
		h.t.Errorf("the record has the access token %q, want %q", got, want.access)
	}
	if got := rec.Credentials.RefreshToken.Reveal(); !strings.HasPrefix(got, want.refresh) {
		h.t.Errorf("the record has the refresh token %q, want %q", got, want.refresh)
	}
	if want.generation > 0 && rec.Generation != want.generation {
		h.t.Errorf("the record has generation %d, want %d", rec.Generation, want.generation)
	}
	if rec.Cycle.Ambiguous != want.ambiguous {
		h.t.Errorf("the record counts %d ambiguous outcomes, want %d", rec.Cycle.Ambiguous, want.ambiguous)
	}
	if rec.Lease != nil {
		h.t.Errorf("the record has a lease: %+v", rec.Lease)
	}
	return rec
}

// wantRequests checks the number of token requests so far.
func (h *harness) wantRequests(what string, want int) {
	h.t.Helper()
	if got := len(h.provider.Requests()); got != want {
		h.t.Errorf("%s: got %d token requests so far, want %d", what, got, want)
	}
}

// logLines returns the lines of the log that contain all parts.
func (h *harness) logLines(parts ...string) []string {
	var found []string
	for line := range strings.Lines(h.log.String()) {
		if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
			found = append(found, line)
		}
	}
	return found
}

// wantLogged checks that n lines of the log have the level, name the harness's connection
// and contain text.
func (h *harness) wantLogged(n int, level slog.Level, text string) {
	h.t.Helper()
	if got := h.logLines("level="+level.String(), "connection="+h.key.String(), text); len(got) != n {
		h.t.Errorf("got %d lines at %s about %s with %q, want %d; the log:\n%s", len(got), level, h.key, text, n, h.log)
	}
}
