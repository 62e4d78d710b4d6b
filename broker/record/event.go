package record

import (
	"context"
	"time"
)

// An EventType names an event as the Apideck API does.
type EventType string

// The events of a connection's refreshes, each emitted at most once in a [Cycle].
const (
	// EventRefreshPending: a refresh failed for the first time and will be retried.
	EventRefreshPending EventType = "vault.connection.token_refresh.pending"
	// EventRefreshFailed: the refresh was refused for good, or retries have ended.
	EventRefreshFailed EventType = "vault.connection.token_refresh.failed"
	// EventRefreshRecovered: a refresh succeeded after failures.
	EventRefreshRecovered EventType = "vault.connection.token_refresh.recovered"
)

// EventTypes returns every event type.
func EventTypes() []EventType {
	return []EventType{EventRefreshPending, EventRefreshFailed, EventRefreshRecovered}
}

// An Event reports a change of a connection. It contains no secret.
type Event struct {
	ID         string // UUID, the same for every delivery of the event
	Type       EventType
	OccurredAt time.Time
	Connection Connection
}

// An EventSink delivers events to their receivers.
type EventSink interface {
	// Emit must not block. It uses ctx only for the span that caused the event.
	Emit(ctx context.Context, event Event)
}
