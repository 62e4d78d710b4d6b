package placeholder

import (
	"strings"
	"testing"
)

func TestMistypedPlaceholdersAreRefused(t *testing.T) {
	for _, value := range []string{"{env:CANARY}", "${CANARY}", "{$CANARY}", "{file:/run/canary}", "{env CANARY}", " {env:CANARY} "} {
		_, err := Resolve("app a: api_key 1", value)
		if err == nil || !strings.Contains(err.Error(), "app a: api_key 1 looks like a placeholder") || strings.Contains(strings.ToLower(err.Error()), "canary") {
			t.Errorf("%s: got %v, want a refusal that does not quote it", value, err)
		}
	}
	for _, value := range []string{"{environment}", "a{env:b}c", "{", "$1$abc", "{}", "{envelope}", "pa{$}ss"} {
		if got, err := Resolve("app a: api_key 1", value); err != nil || got != value {
			t.Errorf("%s: got %q, %v, want it as it stands", value, got, err)
		}
	}
}
