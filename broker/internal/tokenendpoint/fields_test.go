package tokenendpoint

import "testing"

func TestMembersAreFoundUnderOtherSpellings(t *testing.T) {
	t.Parallel()
	answer := map[string]any{"accessToken": 1, "Access-Token": 2, "refresh.token": 3, "expires_in": 4, "EXPIRESIN": 5, "": 6, "é": 7, "_": 8}
	for name, want := range map[string]any{
		"access_token":   2, // the first in the order of bytes
		"refresh_token":  3,
		"expires_in":     4, // the exact name
		"refresh_toke":   nil,
		"refresh_tokens": nil,
		"scope":          nil,
		"ê":              nil,
	} {
		if got := member(answer, name); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	if got := member("no object", "scope"); got != nil {
		t.Errorf("text has a member: %v", got)
	}
}
