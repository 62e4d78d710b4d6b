package tokenbroker

import (
	"fmt"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// LimitsConfig limits what callers can use. -1 is no limit.
type LimitsConfig struct {
	// The maximum number of concurrent requests of an application, over all its
	// connections. An upgraded connection counts until it closes. Further requests are
	// answered 429. Default: `20000`.
	AppConcurrency int `json:"app_concurrency,omitempty"`

	// The maximum number of concurrent requests of a connection. Default: `10000`.
	ConnectionConcurrency int `json:"connection_concurrency,omitempty"`

	// The maximum size of a request body in bytes. Larger requests are answered 413.
	// Default: 5 GiB.
	RequestBody int64 `json:"request_body,omitempty"`

	// The maximum size of a request's line and header in bytes, the URL in
	// x-apideck-downstream-url included. Larger ones are answered 431. With -1 only the
	// server's own limit applies, Caddy's max_header_size. Default: 64 KiB.
	RequestHeader int64 `json:"request_header,omitempty"`
}

// defaultMaxRequestBody is more than common APIs accept.
const defaultMaxRequestBody = 5 << 30

// defaultMaxRequestHeader is what common servers accept, or more.
const defaultMaxRequestHeader = 64 << 10

// noLimit is the value of `off`.
const noLimit = -1

// brokerLimits returns the limits that the broker enforces.
func (a *App) brokerLimits() record.Limits {
	limits := record.Limits{
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

// checkLimits returns an error for numbers that cannot be a limit.
func (a *App) checkLimits() error {
	numbers := map[string]int64{
		"limits: app_concurrency": int64(a.Limits.AppConcurrency), "limits: connection_concurrency": int64(a.Limits.ConnectionConcurrency),
		"limits: request_body": a.Limits.RequestBody, "limits: request_header": a.Limits.RequestHeader,
	}
	for name, app := range a.Applications {
		if app != nil {
			numbers["app "+name+": app_concurrency"], numbers["app "+name+": request_body"] = int64(app.AppConcurrency), app.RequestBody
		}
	}
	for field, n := range numbers {
		if n < noLimit {
			return fmt.Errorf("%s must be greater than 0, or -1 for no limit", field)
		}
	}
	return nil
}

// MaxRequestBody returns the maximum size of an application's request bodies in bytes, -1 for
// no limit.
func (a *App) MaxRequestBody(application string) int64 {
	if app := a.Applications[application]; app != nil && app.RequestBody != 0 {
		return app.RequestBody
	}
	if a.Limits.RequestBody != 0 {
		return a.Limits.RequestBody
	}
	return defaultMaxRequestBody
}
