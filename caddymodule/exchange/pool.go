package exchange

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultConnectionAge is the default maximum age of connections to downstream.
const DefaultConnectionAge = 5 * time.Minute

// A Pool limits the age of connections to downstream, so that a change of its addresses is
// noticed even under steady traffic. net/http knows no such limit, so the pool replaces the
// transport: idle connections are closed at once, those in use after their requests.
type Pool struct {
	create  func() *http.Transport
	age     time.Duration
	current atomic.Pointer[http.Transport]

	mu    sync.Mutex
	timer *time.Timer              // guarded by mu; nil: the age is not limited, or the pool is closed
	users map[user]*http.Transport // guarded by mu
}

// NewPool returns a pool of connections that are at most age old; zero or less is no limit.
// create returns a new transport, with connections of its own.
func NewPool(age time.Duration, create func() *http.Transport) *Pool {
	p := &Pool{create: create, age: age}
	p.current.Store(create())
	if age > 0 {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.timer = time.AfterFunc(age, p.renew)
	}
	return p
}

// Transport returns the transport to use for a request.
func (p *Pool) Transport() *http.Transport { return p.current.Load() }

// renew replaces the transport.
func (p *Pool) renew() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer == nil {
		return
	}
	p.current.Swap(p.create()).CloseIdleConnections()
	p.timer.Reset(p.age)
}

// Close closes idle connections. Requests in progress are not affected.
func (p *Pool) Close() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	p.current.Load().CloseIdleConnections()
	for _, rt := range p.users {
		rt.CloseIdleConnections()
	}
}
