package inject

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// removeHeader removes a header in any spelling of its name.
func removeHeader(req *http.Request, name string) {
	for other := range req.Header {
		if len(other) == len(name) && strings.EqualFold(other, name) {
			delete(req.Header, other)
		}
	}
}

// setHeader sets a header and removes it in any other spelling of its name.
func setHeader(req *http.Request, name, value string) {
	removeHeader(req, name)
	req.Header[textproto.CanonicalMIMEHeaderKey(name)] = []string{value}
}

// setCookie sets a cookie and removes others of its name, in any spelling of the Cookie header
// (RFC 6265 section 5.4).
func setCookie(req *http.Request, name, value string) {
	var spellings []string // sorted, since the order of cookies can matter
	for other := range req.Header {
		if strings.EqualFold(other, "Cookie") {
			spellings = append(spellings, other)
		}
	}
	slices.Sort(spellings)
	var kept []string
	for _, other := range spellings {
		for pair := range strings.SplitSeq(strings.Join(req.Header[other], ";"), ";") {
			pair = strings.TrimSpace(pair)
			if key, _, _ := strings.Cut(pair, "="); pair != "" && strings.TrimSpace(key) != name {
				kept = append(kept, pair)
			}
		}
	}
	setHeader(req, "Cookie", strings.Join(append(kept, name+"="+value), "; "))
}

// WithoutParameters returns a URL's query, from a response that was scrubbed, without the
// parameters in which the credential was put into the request.
func (c *Credential) WithoutParameters(query string) string {
	for _, i := range c.others {
		if i.Kind == connector.InQuery {
			query = withoutRedacted(query, i.Name)
		}
	}
	return query
}

func withoutRedacted(query, name string) string {
	pairs := strings.Split(query, "&")
	return strings.Join(slices.DeleteFunc(pairs, func(pair string) bool {
		return strings.Contains(pair, secret.Redacted) && hasParameter(pair, name)
	}), "&")
}
