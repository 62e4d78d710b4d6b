package apideck

import "github.com/tokenbroker/caddy-token-broker/broker/record"

// An ImportEffect is the JSON form of what an import did, or would do.
type ImportEffect struct {
	Result  string `json:"result"`  // created, updated or kept
	Refresh string `json:"refresh"` // none or queued
}

// NewImportEffect returns the effect of an import with that outcome. created means that there
// was no connection, queued that its token needs a refresh.
func NewImportEffect(outcome record.ImportOutcome, created, queued bool) ImportEffect {
	e := ImportEffect{Result: "updated", Refresh: "none"}
	switch {
	case created:
		e.Result = "created"
	case outcome == record.ImportKept:
		e.Result = "kept"
	}
	if queued {
		e.Refresh = "queued"
	}
	return e
}

// An ImportedRow is the JSON form of the result of one row of a batch. It has either an effect
// or an error.
type ImportedRow struct {
	Row        int `json:"row"` // counts from 0
	StatusCode int `json:"status_code"`
	*ImportEffect
	Warning string `json:"warning,omitempty"`
	Error   any    `json:"error,omitempty"`
}

// A VerifiedRow is the JSON form of the result of one row of a verification. It has either a
// result or an error.
type VerifiedRow struct {
	Row        int            `json:"row"` // counts from 0
	StatusCode int            `json:"status_code"`
	Result     record.Verdict `json:"result,omitempty"`
	State      record.State   `json:"state,omitempty"`
	Health     record.Health  `json:"health,omitempty"`
	Standby    bool           `json:"standby,omitempty"`
	ProbeURL   string         `json:"probe_url,omitempty"` // a template, see [DownstreamURLHeader]
	Error      any            `json:"error,omitempty"`
}
