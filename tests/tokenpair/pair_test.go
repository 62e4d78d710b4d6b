package tokenpair_test

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/tests/tokenpair"
)

func TestTokensTellTheirPair(t *testing.T) {
	t.Parallel()
	for _, p := range []tokenpair.Pair{{}, {Connection: 7, Number: 1}, {Connection: 1_000_000_007, Number: 12}} {
		access, ok := tokenpair.ParseAccess(p.Access())
		refresh, refreshOK := tokenpair.ParseRefresh(p.Refresh())
		if !ok || !refreshOK || access != p || refresh != p {
			t.Errorf("%v: parsed as %v, %v", p, access, refresh)
		}
		if len(p.Access()) != 64 || len(p.Refresh()) != 64 {
			t.Errorf("%v: the tokens have %d and %d bytes, want 64", p, len(p.Access()), len(p.Refresh()))
		}
	}
	for _, text := range []string{"", "refresh-token-", "refresh-token-1", "access-token-1-2", "refresh-token-1-x"} {
		if got, ok := tokenpair.ParseRefresh(text); ok {
			t.Errorf("ParseRefresh(%q) = %v, want no pair", text, got)
		}
	}
}

func TestAnswersAreThoseOfATokenEndpoint(t *testing.T) {
	t.Parallel()
	next := tokenpair.Pair{Connection: 7}.Next()
	issued, refused := httptest.NewRecorder(), httptest.NewRecorder()
	if err := next.Issue(issued, time.Minute); err != nil {
		t.Fatal(err)
	}
	tokenpair.Refuse(refused)
	for _, want := range []string{next.Access(), next.Refresh(), `"expires_in":60`} {
		if !strings.Contains(issued.Body.String(), want) {
			t.Errorf("the response %s has no %s", issued.Body, want)
		}
	}
	if refused.Code != 400 || !strings.Contains(refused.Body.String(), "invalid_grant") {
		t.Errorf("a refusal is %d %s", refused.Code, refused.Body)
	}
}
