package tokenbroker

import (
	"fmt"

	"github.com/tokenbroker/caddy-token-broker/broker"
)

// LimitsConfig bounds what callers can use up. -1 is no limit.
type LimitsConfig struct {
	// How many requests of an application may be under way at a time, over all its
	// connections. An upgraded connection counts until it ends. What is beyond that is
	// answered 429. Default: `20000`.
	AppConcurrency int `json:"app_concurrency,omitempty"`

	// How many requests of one connection may be under way at a time. Default: `10000`.
	ConnectionConcurrency int `json:"connection_concurrency,omitempty"`

	// How large the body of one request may be, in bytes. What is larger is answered
	// 413. Default: 5 GiB.
	RequestBody int64 `json:"request_body,omitempty"`
}

// defaultMaxRequestBody is more than any common API takes in one request.
const defaultMaxRequestBody = 5 << 30

// noLimit is what `off` stands for.
const noLimit = -1

// brokerLimits returns the limits that the broker counts by.
func (a *App) brokerLimits() broker.Limits {
	limits := broker.Limits{
		Connection: a.Limits.ConnectionConcurrency, Application: a.Limits.AppConcurrency,
		Applications: make(map[string]int),
	}
	for name, app := range a.Applications {
		if app != nil && app.AppConcurrency != 0 {
			limits.Applications[name] = app.AppConcurrency
		}
	}
	return limits
}

// checkLimits finds numbers that are none of a limit.
func (a *App) checkLimits() error {
	numbers := map[string]int64{
		"limits: app_concurrency": int64(a.Limits.AppConcurrency), "limits: connection_concurrency": int64(a.Limits.ConnectionConcurrency),
		"limits: request_body": a.Limits.RequestBody,
	}
	for name, app := range a.Applications {
		if app != nil {
			numbers["app "+name+": app_concurrency"], numbers["app "+name+": request_body"] = int64(app.AppConcurrency), app.RequestBody
		}
	}
	for field, n := range numbers {
		if n < noLimit {
			return fmt.Errorf("%s must be more than 0, or -1 for no limit", field)
		}
	}
	return nil
}

// MaxRequestBody returns how large a body the application may send, -1 for no limit.
func (a *App) MaxRequestBody(application string) int64 {
	if app := a.Applications[application]; app != nil && app.RequestBody != 0 {
		return app.RequestBody
	}
	if a.Limits.RequestBody != 0 {
		return a.Limits.RequestBody
	}
	return defaultMaxRequestBody
}
