package broker

import (
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// probeInterval is how often a connector whose client the token endpoint refuses is
// tried again, with one connection.
const probeInterval = 5 * time.Minute

// pauses knows the connectors whose OAuth client is configured wrongly. That is no
// connection's fault and costs none its credentials.
type pauses struct {
	mu     sync.Mutex             // guards what is below
	paused map[connector.ID]pause // nil until there is one
}

type pause struct {
	client clientSettings // as they were; others are worth a try at once
	until  time.Time
}

// clientSettings are what a token endpoint's opinion of the client depends on.
type clientSettings struct {
	tokenURL  string
	authStyle connector.AuthStyle
	clientID  string
	secret    TokenHash
}

func (c *Connector) clientSettings() clientSettings {
	return clientSettings{c.TokenURL, c.AuthStyle, c.Client.ID, c.Client.Secret.Hash()}
}

// until returns when the connector may be tried again, zero if it may be now.
func (p *pauses) until(conn *Connector, now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if paused, ok := p.paused[conn.ID]; ok && paused.client == conn.clientSettings() && now.Before(paused.until) {
		return paused.until
	}
	return time.Time{}
}

// claim is until, but of several callers that could try now after a pause only one
// gets zero: the others wait for what it finds.
func (p *pauses) claim(conn *Connector, now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	paused, ok := p.paused[conn.ID]
	switch {
	case !ok:
		return time.Time{}
	case paused.client != conn.clientSettings():
		delete(p.paused, conn.ID)
		return time.Time{}
	case now.Before(paused.until):
		return paused.until
	}
	paused.until = now.Add(probeInterval)
	p.paused[conn.ID] = paused
	return time.Time{}
}

// release gives back what claim allowed, since nothing was tried.
func (p *pauses) release(conn *Connector, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if paused, ok := p.paused[conn.ID]; ok && paused.client == conn.clientSettings() {
		paused.until = now
		p.paused[conn.ID] = paused
	}
}

// pause stops the connector for a while and reports whether it was not paused yet.
func (p *pauses) pause(conn *Connector, until time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, known := p.paused[conn.ID]
	if p.paused == nil {
		p.paused = make(map[connector.ID]pause)
	}
	p.paused[conn.ID] = pause{conn.clientSettings(), until}
	return !known || old.client != conn.clientSettings()
}

// resume ends the pause: the token endpoint has accepted the client.
func (p *pauses) resume(conn *Connector) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.paused, conn.ID)
}
