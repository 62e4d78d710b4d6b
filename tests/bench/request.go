package main

import (
	"bytes"
	"fmt"
	"strings"
)

// target is what requests ask the upstream for.
const target = "/v1/things?limit=10"

// contestants returns the contestants that the binary supports for a kind of traffic: plain
// first, then the transport.
func (s *setup) contestants(t *traffic) []*contestant {
	ports := [3]int{s.ports.Plain, s.ports.Transport, s.ports.Proxy}
	if t.secure {
		ports = [3]int{s.ports.PlainSecure, s.ports.TransportSecure, s.ports.Proxy}
	}
	var all []*contestant
	for i, name := range []string{"plain", "transport", "proxy"} {
		if name == "proxy" && !s.hasProxy {
			continue
		}
		all = append(all, &contestant{
			name: name, process: s.process.ID(), address: s.ports.address(ports[i]), profiles: s.ports.address(s.ports.Admin),
		})
	}
	s.prepareRequests(t, all)
	return all
}

// transport returns the transport, with GETs.
func (s *setup) transport() *contestant { return s.contestants(&traffic{})[1] }

// prepareRequests gives each contestant one request for each connection in use.
func (s *setup) prepareRequests(t *traffic, contestants []*contestant) {
	for _, c := range contestants {
		c.requests = make([]request, s.inUse())
		for i := range c.requests {
			connection := s.connection(i)
			document := document(c.credential(connection))
			c.requests[i] = request{
				head: s.head(t, c, target, connection), body: t.body,
				start: document, length: max(len(document), len(t.body)),
			}
		}
	}
}

// inUse returns how many connections are used.
func (s *setup) inUse() int { return min(s.connections, inUse) }

// connection returns the i-th connection in use. They are spread over the whole store.
func (s *setup) connection(i int) int { return i * s.connections / s.inUse() }

// credential returns what the contestant must put into requests for a connection.
func (c *contestant) credential(connection int) string {
	if c.name == "plain" || c.name == "bare" {
		return accessToken(0)
	}
	return accessToken(connection)
}

// head returns the header of a request for a connection. Those for all contestants but the
// proxy are the same.
func (s *setup) head(t *traffic, c *contestant, target string, connection int) []byte {
	method, fields := "GET", ""
	if t.body != nil {
		method, fields = "POST", fmt.Sprintf("Content-Type: application/json\r\nContent-Length: %d\r\n", len(t.body))
	}
	fields += "Accept: application/json\r\nUser-Agent: bench\r\nX-Apideck-Consumer-Id: " + consumerID(connection) + "\r\n"
	if c.name == "proxy" {
		fields += "Authorization: Bearer " + apiKey + "\r\nX-Apideck-App-Id: " + application +
			"\r\nX-Apideck-Service-Id: bench\r\nX-Apideck-Unified-Api: crm" +
			"\r\nX-Apideck-Downstream-Url: " + s.upstreamURL(t.secure) + target + "\r\n"
		target = "/proxy"
	}
	return fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", method, target, c.address, fields)
}

// upstreamURL returns the upstream's URL.
func (s *setup) upstreamURL(secure bool) string {
	if secure {
		return "https://" + s.upstream.secure
	}
	return "http://" + s.upstream.address
}

// body returns the body of a request: JSON of that length.
func body(length int) []byte {
	const start, end = `{"text":"`, `"}`
	text := strings.Repeat("text ", length/5+1)[:length-len(start)-len(end)]
	var b bytes.Buffer
	b.WriteString(start + text + end)
	return b.Bytes()
}
