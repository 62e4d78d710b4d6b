package broker_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func TestVerificationComparesWhatIsStored(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(0))
		h.mustImportBody(h.at(long), `{"credentials":{"access_token":"l1",`+issued(0)+`}}`)
		h.mustImportBody(h.at(keyed), `{"settings":{"api_key":"k"}}`)
		deleted := h.of("deleted")
		h.mustImportBody(deleted, tokens("a1", "r1"))
		if err := h.Delete(t.Context(), deleted); err != nil {
			t.Fatal(err)
		}
		h.mustImportBody(h.key, tokens("a1", "r1"))

		salt := []byte(strings.Repeat("k", 16))
		row := func(key record.Key, access, refresh string) record.VerifyRow {
			row := record.VerifyRow{Key: key}
			if access != "" {
				row.AccessToken = secret.New(access).MAC(salt)
			}
			if refresh != "" {
				row.RefreshToken = secret.New(refresh).MAC(salt)
			}
			return row
		}
		otherSalt := record.VerifyRow{Key: h.of("b"), AccessToken: secret.New("a1").MAC([]byte("another key"))}
		h.mustImportBody(h.of("b"), tokens("a1", "r1"))
		unknown := h.key
		unknown.Connector.ServiceID = "nobody"
		tests := []struct {
			row  record.VerifyRow
			want record.Verdict
		}{
			{row(h.of("b"), "a1", "r1"), record.VerdictSame},
			{row(h.of("b"), "a1", ""), record.VerdictSame},
			{row(h.of("b"), "", "r1"), record.VerdictSame},
			{row(h.of("b"), "", ""), record.VerdictSame},
			{row(h.of("b"), "a1", "r2"), record.VerdictDifferent},
			{row(h.of("b"), "a2", "r1"), record.VerdictDifferent},
			{otherSalt, record.VerdictDifferent},
			{row(h.at(long), "l1", ""), record.VerdictSame},
			{row(h.at(long), "l1", "r1"), record.VerdictDifferent},
			{row(h.at(keyed), "", ""), record.VerdictSame},
			{row(h.at(keyed), "k", ""), record.VerdictDifferent},
			{row(h.of("nobody"), "a1", "r1"), record.VerdictMissing},
			{row(deleted, "a1", "r1"), record.VerdictMissing},
			{row(unknown, "a1", "r1"), ""},
		}
		rows := make([]record.VerifyRow, len(tests))
		for i, test := range tests {
			rows[i] = test.row
		}
		for i, got := range h.VerifyAll(t.Context(), rows, salt) {
			want := tests[i].want
			if got.Verdict != want || (got.Connection == nil) != (want == record.VerdictMissing || want == "") {
				t.Errorf("row %d, %s: got %q with %v, want %q", i, rows[i].Key, got.Verdict, got.Connection, want)
			}
			if want == "" && !errors.Is(got.Err, record.ErrConnectorNotFound) || want != "" && got.Err != nil {
				t.Errorf("row %d: got %v", i, got.Err)
			}
		}
	})
}

// An empty token has a hash too, which must not match a connection without tokens.
func TestVerificationMatchesNoEmptyToken(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImportBody(h.at(keyed), `{"settings":{"api_key":"k"}}`)
		salt := []byte(strings.Repeat("k", 16))
		rows := []record.VerifyRow{{Key: h.at(keyed), AccessToken: secret.String{}.MAC(salt)}}
		if got := h.VerifyAll(t.Context(), rows, salt)[0].Verdict; got != record.VerdictDifferent {
			t.Errorf("got %s, want different", got)
		}
	})
}
