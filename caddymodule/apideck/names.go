// Package apideck is the HTTP contract with callers, which is that of the Apideck API:
// header names and how headers are read, and the JSON of a connection. It imports nothing
// of the adapter.
package apideck

// Headers that identify the caller.
const (
	AppHeader      = "X-Apideck-App-Id"
	ConsumerHeader = "X-Apideck-Consumer-Id"
)

// Request headers of the Proxy API. An empty header counts as absent: official clients
// send all of them, set or not.
const (
	MethodHeader        = "X-Apideck-Downstream-Method"
	AuthorizationHeader = "X-Apideck-Downstream-Authorization"
	TimeoutHeader       = "X-Apideck-Timeout"
)

// Response headers of the Proxy API.
const (
	RequestIDHeader       = "X-Apideck-Request-Id"
	DownstreamErrorHeader = "X-Apideck-Downstream-Error"
)
