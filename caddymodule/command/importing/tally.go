package importing

import (
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// A tally counts the outcomes of rows. It is part of the saved state.
type tally struct {
	Connectors map[string]*counts `json:"connectors,omitempty"`
	Refused    map[string]int     `json:"refused,omitempty"`  // by reason
	Skipped    map[string]int     `json:"skipped,omitempty"`  // by reason
	Warnings   map[string]int     `json:"warnings,omitempty"` // the broker's
	Queued     int                `json:"queued,omitempty"`   // refreshes
}

// counts are the rows of one connector.
type counts struct {
	Created int `json:"created,omitempty"`
	Updated int `json:"updated,omitempty"`
	Kept    int `json:"kept,omitempty"`
	Refused int `json:"refused,omitempty"`
}

// How many texts are told apart. What a file names can be without limit.
const maxTexts = 200

// otherTexts counts the rest.
const otherTexts = "other"

// count adds 1 to a text's count.
func count(counts *map[string]int, text string) {
	if *counts == nil {
		*counts = make(map[string]int)
	}
	if _, known := (*counts)[text]; !known && len(*counts) >= maxTexts {
		text = otherTexts
	}
	(*counts)[text]++
}

// add counts a row whose outcome is known.
func (t *tally) add(it *item) {
	if it.outcome == outcomeSkipped {
		count(&t.Skipped, it.reason)
		return
	}
	c := t.of(it.key.Connector)
	switch it.outcome {
	case outcomeCreated:
		c.Created++
	case outcomeUpdated:
		c.Updated++
	case outcomeKept:
		c.Kept++
	default:
		c.Refused++
		count(&t.Refused, it.reason)
	}
	if it.warning != "" {
		count(&t.Warnings, it.warning)
	}
	if it.queued {
		t.Queued++
	}
}

// noConnector stands for the connector of rows that name none.
const noConnector = "(no connector)"

// of returns the counts of a connector.
func (t *tally) of(id connector.ID) *counts {
	name := noConnector
	if id != (connector.ID{}) {
		name = id.String()
	}
	if t.Connectors == nil {
		t.Connectors = make(map[string]*counts)
	}
	if t.Connectors[name] == nil {
		if len(t.Connectors) >= maxTexts {
			name = otherTexts
		}
		if t.Connectors[name] == nil {
			t.Connectors[name] = &counts{}
		}
	}
	return t.Connectors[name]
}

// isEmpty reports whether no row is counted.
func (t *tally) isEmpty() bool { return len(t.Connectors) == 0 && len(t.Skipped) == 0 }

// total returns the sum over all connectors.
func (t *tally) total() counts {
	var sum counts
	for _, c := range t.Connectors {
		sum.Created += c.Created
		sum.Updated += c.Updated
		sum.Kept += c.Kept
		sum.Refused += c.Refused
	}
	return sum
}
