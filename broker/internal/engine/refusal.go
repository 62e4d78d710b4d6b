package engine

import (
	"context"
	"log/slog"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/breaker"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/pace"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// refusals are the refusals of token endpoints that may concern more than one connection.
type refusals struct {
	breakers      *breaker.Set
	announcements announcements
}

// background does the work of the breakers.
type background struct{ engine *Engine }

// Run implements [breaker.Runner].
func (b background) Run(work func(ctx context.Context)) bool {
	return b.engine.lifecycle.begin(func() { work(b.engine.lifecycle.ctx) })
}

// StartRefresh implements [breaker.Runner].
func (b background) StartRefresh(key record.Key) {
	b.engine.Refresher(key).start(context.Background()).ticket.Keep()
}

// QueueRefresh implements [breaker.Runner].
func (b background) QueueRefresh(key record.Key) {
	b.engine.Refresher(key).Start(context.Background(), pace.Again)
}

// pause holds back the connections that the refusal concerns, and logs it for operators. It
// reports whether the pause is new to them.
func (a *attempt) pause(ctx context.Context, held *heldLease, ans record.Answer, now time.Time) (news bool) {
	e := a.refresher.engine
	begun, shared := e.refusals.breakers.ClientRefused(a.conn, held.rec, ans)
	if !begun || shared && !e.announce(ctx, a.conn, held.rec, now) {
		return false
	}
	msg := "the token endpoint refuses this connection's settings; the connection is paused and has lost nothing. " +
		"Check the settings that its token requests contain"
	switch {
	case shared && breaker.EndpointOf(a.conn, held.rec) != "":
		msg = "a tenant's token endpoint refuses the OAuth client; the tenant's connections are paused, no connection has lost its credentials. " +
			"Check the settings that decide the token endpoint, and the connector's client_id, client_secret and auth_style"
	case shared:
		msg = "the token endpoint refuses the OAuth client; the connector is paused, no connection has lost its credentials. " +
			"Check the connector's client_id, client_secret, auth_style and token_url"
	}
	a.log(ctx, slog.LevelError, msg, a.errorOf(ans))
	return true
}

// noteRefusal is called when the token endpoint has refused a connection without saying whether
// that concerns the connection or the client.
func (a *attempt) noteRefusal(ctx context.Context, held *heldLease, ans record.Answer) {
	err := a.errorOf(ans)
	switch before, after := a.refresher.engine.refusals.breakers.Refused(a.conn, held.rec, ans); {
	case !before && after:
		a.log(ctx, slog.LevelWarn, "the token endpoint has refused several connections in a row: likely the OAuth client or token_url is wrong, "+
			"not their grants; requests are spaced until one is accepted, no connection has lost its credentials", err)
	case !before:
		a.log(ctx, slog.LevelInfo, "the token endpoint has refused a connection: likely its grant is dead, not the OAuth client wrong; "+
			"the connection is retried, and has lost nothing", err)
	}
}

// errorOf returns a failed answer as an error for the log.
func (a *attempt) errorOf(ans record.Answer) error {
	return &record.TokenError{Key: a.refresher.Key, Class: ans.Class, Code: ans.Code, Detail: ans.Detail}
}

// clientAccepted is called when the token endpoint has accepted a token request. If that had
// the connection's own client it says nothing about the connector's.
func (a *attempt) clientAccepted(ctx context.Context, held *heldLease) {
	e := a.refresher.engine
	e.refusals.breakers.Accepted(a.conn, held.rec)
	if _, own := a.conn.ClientFor(held.rec.Settings); !own {
		e.endAnnouncement(ctx, a.conn, held.rec)
	}
}
