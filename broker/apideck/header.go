package apideck

// The headers that name the connection of a call, and the URL that it goes to.
const (
	UnifiedAPIHeader    = "X-Apideck-Unified-Api"
	ServiceHeader       = "X-Apideck-Service-Id"
	DownstreamURLHeader = "X-Apideck-Downstream-Url"
)
