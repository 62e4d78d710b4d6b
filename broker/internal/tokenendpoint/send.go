package tokenendpoint

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Send sends one token request, once, without following redirects. rt must never resend a
// request: it must use HTTP/1.1 and a new connection. ctx bounds the time.
func Send(ctx context.Context, rt http.RoundTripper, req Request) record.Answer {
	x := &exchange{}
	out, err := req.build(ctx)
	if err == nil {
		err = x.send(rt, out)
	}
	ans := classify(x, &req, err)
	ans.SentAt = req.SentAt
	return ans
}

// build returns the request to send. Its error can quote the URL.
func (r *Request) build(ctx context.Context) (*http.Request, error) {
	params, header := make(url.Values, len(r.Params)+2), make(http.Header)
	maps.Copy(params, r.Params)
	header.Set("Accept", "application/json")
	header.Set("User-Agent", userAgent)
	for name, value := range r.Header {
		header.Set(name, value)
	}
	// Without this header any coding is acceptable (RFC 9110 section 12.5.3).
	header.Set("Accept-Encoding", "identity")
	authenticate(r.Style, r.Client, params, header)

	method, body := http.MethodPost, ""
	switch {
	case r.Method == connector.MethodGet:
		method = http.MethodGet
	case r.JSON:
		members := make(map[string]string, len(params))
		for name := range params {
			members[name] = params.Get(name)
		}
		encoded, err := json.Marshal(members)
		if err != nil {
			return nil, err
		}
		body = string(encoded)
		header.Set("Content-Type", "application/json")
	default:
		body = params.Encode()
		header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	out, err := http.NewRequestWithContext(ctx, method, r.URL, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	out.Header = header
	out.GetBody = nil // net/http could use it to send the body again
	if method == http.MethodGet {
		out.URL.RawQuery = strings.TrimPrefix(out.URL.RawQuery+"&"+params.Encode(), "&")
	}
	return out, nil
}

// authenticate adds the client's credentials to the parameters or the headers of a request
// (RFC 6749 section 2.3.1).
func authenticate(style connector.AuthStyle, client record.Client, params url.Values, header http.Header) {
	id, clientSecret := client.ID, client.Secret.Reveal()
	if style == connector.AuthParams || style == connector.AuthBoth {
		if id != "" {
			params.Set("client_id", id)
		}
		if clientSecret != "" {
			params.Set("client_secret", clientSecret)
		}
	}
	switch style {
	case connector.AuthParams:
		return
	case connector.AuthHeaderRaw, connector.AuthBoth:
	default:
		id, clientSecret = url.QueryEscape(id), url.QueryEscape(clientSecret)
	}
	header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(id+":"+clientSecret)))
}
