// Package outage tells operators once that something does not work, and once that it works
// again, however many requests fail in between.
package outage

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// A Reporter reports the outages of one thing. Its fields must not change.
type Reporter struct {
	Failed    string              // logged as an error when an outage begins
	Recovered string              // logged when it ends
	Log       func() *slog.Logger // the current logger

	down atomic.Bool
}

// Note notes the result of a use.
func (r *Reporter) Note(ctx context.Context, err error) {
	switch {
	case err == nil:
		if r.down.Load() && r.down.Swap(false) {
			r.Log().LogAttrs(ctx, slog.LevelInfo, r.Recovered)
		}
	case !r.down.Swap(true):
		r.Log().LogAttrs(ctx, slog.LevelError, r.Failed, slog.String("error", err.Error()))
	}
}
