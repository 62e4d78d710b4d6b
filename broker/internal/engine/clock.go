package engine

import (
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
)

func (e *Engine) now() clock.Moment { return clock.MomentOf(e.clock) }

func (e *Engine) instant() clock.Instant { return clock.InstantOf(e.clock) }

// Now returns the time of day by the engine's clock.
func (e *Engine) Now() time.Time { return e.clock.Now() }
