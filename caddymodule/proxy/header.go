package proxy

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// dropInRequest reports whether a request header does not reach downstream.
func dropInRequest(name string) bool {
	switch name {
	case "Host", "Content-Length", "Http2-Settings": // net/http sets these for the new connection
		return true
	}
	return isHopByHop(name) || apideck.IsCallersOwn(name)
}

var (
	noValue         = []string{""} // as User-Agent: net/http then sends none
	viaHTTP1        = []string{"1.1 Caddy"}
	viaHTTP2        = []string{"2.0 Caddy"}
	connectionClose = []string{"close"}
	upgrade         = []string{"Upgrade"}
	websocket       = []string{"websocket"}
	teTrailers      = []string{"trailers"}
)

// requestHeader returns the headers to send downstream, without a credential. The map is
// new; its values are shared with the request and must not be changed.
func requestHeader(r *http.Request) http.Header {
	type field struct {
		name   string
		values []string
	}
	var few [16]field
	kept := few[:0]
	for name, values := range r.Header {
		if name != "" && !dropInRequest(name) {
			kept = append(kept, field{name, values})
		}
	}
	const ours = 3                              // User-Agent, Via, and the credential
	header := make(http.Header, len(kept)+ours) // exact, since every request pays for it
	for _, f := range kept {
		header[f.name] = f.values
	}
	for _, values := range r.Header["Connection"] {
		for token := range strings.SplitSeq(values, ",") {
			delete(header, http.CanonicalHeaderKey(strings.TrimSpace(token)))
		}
	}
	if httpguts.HeaderValuesContainsToken(r.Header["Te"], "trailers") {
		header["Te"] = teTrailers
	}
	if wantsWebSocket(r) {
		header["Connection"], header["Upgrade"] = upgrade, websocket
	}
	if _, ok := header["User-Agent"]; !ok {
		header["User-Agent"] = noValue
	}
	via := viaHTTP1 // RFC 9110 section 7.6.3
	if r.ProtoMajor == 2 {
		via = viaHTTP2
	}
	if own := header["Via"]; own != nil {
		via = append(slices.Clip(own), via...)
	}
	header["Via"] = via
	return header
}

// wantsWebSocket reports whether r asks to upgrade to WebSocket (RFC 6455 section 4.1).
// Other upgrades are not passed on, and downstream answers as if none had been requested
// (RFC 9110 section 7.8).
func wantsWebSocket(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.Header["Upgrade"] != nil && !hasBody(r) && httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") &&
		len(r.Header["Upgrade"]) == 1 && strings.EqualFold(r.Header["Upgrade"][0], "websocket")
}

// vary lists the request headers that decide the response (RFC 9110 section 12.5.5): all
// requests have the same URL.
const vary = "authorization, " + record.ApplicationField + ", " + record.ConsumerField + ", " + record.UnifiedAPIField + ", " +
	record.ServiceField + ", " + record.DownstreamURLField + ", x-apideck-downstream-method, x-apideck-downstream-authorization"

// dropInResponse reports whether a response header that package fields has left does not reach
// the caller: headers of the connection, and those that only the Proxy API may set.
func dropInResponse(name string) bool {
	return name == "" || isHopByHop(name) || name[0] == 'X' && strings.HasPrefix(name, rateLimitPrefix)
}

// copyHeader copies response headers for the caller. It reports whether one of them may be a
// source for [setRateLimit].
func copyHeader(to, from http.Header) (limits bool) {
	for name, values := range from {
		if !dropInResponse(name) {
			to[name] = values
			limits = limits || isRateLimit(name)
		}
	}
	for _, values := range from["Connection"] {
		for token := range strings.SplitSeq(values, ",") {
			name := http.CanonicalHeaderKey(strings.TrimSpace(token))
			if _, ok := from[name]; ok && name != apideck.RequestIDHeader {
				delete(to, name)
			}
		}
	}
	return limits
}

// answerHeader sets the headers of the final response: downstream's, and the broker's own.
func answerHeader(to http.Header, resp *http.Response, method, asked string, now time.Time) {
	if copyHeader(to, resp.Header) {
		setRateLimit(to, resp.Header, now)
	}
	if _, ok := to["Content-Type"]; !ok {
		to["Content-Type"] = nil // net/http would guess one from the body
	}
	if method == http.MethodHead && asked != http.MethodHead {
		delete(to, "Content-Length") // there will be no body
	}
	if resp.StatusCode >= http.StatusBadRequest {
		to[apideck.DownstreamErrorHeader] = []string{"true"}
	}
}

// isHopByHop reports whether a header concerns a single connection (RFC 9110 section 7.6.1)
// or is written by net/http.
func isHopByHop(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	default:
		return false
	}
}
