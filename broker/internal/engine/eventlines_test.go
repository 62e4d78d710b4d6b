package engine

import (
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestEachEventHasALineInTheLog(t *testing.T) {
	t.Parallel()
	for _, event := range record.EventTypes() {
		if _, ok := eventLines[event]; !ok {
			t.Errorf("the level of %s is not decided", event)
		}
	}
	if len(eventLines) != len(record.EventTypes()) {
		t.Errorf("there are %d lines for %d event types", len(eventLines), len(record.EventTypes()))
	}
}
