package apideck

// The headers by which callers say who they are.
const (
	AppHeader      = "X-Apideck-App-Id"
	ConsumerHeader = "X-Apideck-Consumer-Id"
)

// The headers by which callers of the Proxy API say what they want. Official clients
// send those that they were not given too, empty: that is the same as not sending them.
const (
	MethodHeader        = "X-Apideck-Downstream-Method"
	AuthorizationHeader = "X-Apideck-Downstream-Authorization"
	TimeoutHeader       = "X-Apideck-Timeout"
)

// And those by which they are told what has come of it.
const (
	RequestIDHeader       = "X-Apideck-Request-Id"
	DownstreamErrorHeader = "X-Apideck-Downstream-Error"
)
