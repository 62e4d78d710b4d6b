package caddymodule

// The headers by which callers say who they are.
const (
	appHeader      = "X-Apideck-App-Id"
	consumerHeader = "X-Apideck-Consumer-Id"
)

// The headers by which callers of the Proxy API say what they want. Official clients
// send those that they were not given too, empty: that is the same as not sending them.
const (
	methodHeader        = "X-Apideck-Downstream-Method"
	authorizationHeader = "X-Apideck-Downstream-Authorization"
	timeoutHeader       = "X-Apideck-Timeout"
)

// And those by which they are told what has come of it.
const (
	requestIDHeader       = "X-Apideck-Request-Id"
	downstreamErrorHeader = "X-Apideck-Downstream-Error"
)
