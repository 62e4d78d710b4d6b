package proxy

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
)

// wait starts the timeout for the response header.
func (p *passage) wait(cancel context.CancelCauseFunc) {
	p.deadline.cancel = cancel
	p.deadline.alarm = p.proxy.alarms.Get().(*alarm)
	p.deadline.alarm.passage = p
	p.deadline.alarm.timer.Reset(p.timeout)
}

// An alarm is a reusable timer for passages.
type alarm struct {
	passage *passage // set before the timer starts, whose function reads it
	timer   *time.Timer
}

func newAlarms() *sync.Pool {
	return &sync.Pool{New: func() any {
		a := &alarm{}
		a.timer = time.AfterFunc(time.Hour, func() { a.passage.expire() })
		a.timer.Stop()
		return a
	}}
}

// stopWaiting ends the wait and reports whether it ended in time. Once it returns, expire no
// longer touches the request, which the server is about to reuse.
func (p *passage) stopWaiting() bool {
	stopped := p.deadline.alarm != nil && p.deadline.alarm.timer.Stop()
	p.deadline.mu.Lock()
	defer p.deadline.mu.Unlock()
	p.deadline.over = true
	if stopped { // otherwise expire may be about to run
		p.deadline.alarm.passage = nil
		p.proxy.alarms.Put(p.deadline.alarm)
		p.deadline.alarm = nil
	}
	return !p.deadline.late
}

// expire ends the wait for the response header, unless data of the request body was read
// within the timeout.
func (p *passage) expire() {
	p.deadline.mu.Lock()
	defer p.deadline.mu.Unlock()
	if p.deadline.over {
		return
	}
	if rest := time.Until(time.Unix(0, p.deadline.movedAt.Load()).Add(p.timeout)); rest > 0 {
		p.deadline.alarm.timer.Reset(rest)
		return
	}
	p.deadline.over, p.deadline.late = true, true
	if p.body.cutOff() {
		// net/http waits for a read of the body in progress, and so for the caller. This ends
		// the read; the server then closes the connection.
		_ = http.NewResponseController(p.caller.w).SetReadDeadline(time.Unix(1, 0))
	}
	p.deadline.cancel(apierror.ErrTimedOut)
}
