package record

import (
	"context"
	"time"
)

// An EventType names an event as the Vault API does.
type EventType string

// The events that a connection's refreshing causes, each at most once in a [Cycle].
const (
	// EventRefreshPending: a refresh failed for the first time and is being retried.
	EventRefreshPending EventType = "vault.connection.token_refresh.pending"
	// EventRefreshFailed: refreshing has failed for good, or was given up.
	EventRefreshFailed EventType = "vault.connection.token_refresh.failed"
	// EventRefreshRecovered: a refresh succeeded after failures.
	EventRefreshRecovered EventType = "vault.connection.token_refresh.recovered"
)

// EventTypes are all that there are.
func EventTypes() []EventType {
	return []EventType{EventRefreshPending, EventRefreshFailed, EventRefreshRecovered}
}

// An Event tells of a change of a connection. It carries no secret.
type Event struct {
	ID         string // UUID; the same on every delivery of the event
	Type       EventType
	OccurredAt time.Time
	Connection Connection
}

// An EventSink takes events on to whoever wants them. Emit must not block; ctx
// carries the span that caused the event and nothing else of interest.
type EventSink interface {
	Emit(ctx context.Context, event Event)
}
