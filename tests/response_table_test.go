package tests

import (
	"net/http"
	"testing"
)

// The fates of a response field.
const (
	passes = iota
	vanishes
	becomesAbsolute // a relative URL becomes one of downstream
)

// A fieldRow is the treatment of fields with a value, on each path.
type fieldRow struct {
	value            string
	proxy, transport int
	names            []string
}

// fieldRows has each response field of the IANA registry of HTTP fields, and of those in use
// beside it, that has a meaning for origins, caches or credentials, or names a URL.
var fieldRows = []fieldRow{
	{"/v2/x", becomesAbsolute, passes, []string{
		"Location", "Content-Location", "Content-Base", "URI", "Redirect-Ref", "Status-URI", "SourceMap", "X-SourceMap", "OData-EntityId",
		"Operation-Location", "Azure-AsyncOperation", "X-Goog-Upload-URL", "HX-Redirect", "HX-Push-Url", "HX-Replace-Url", "Turbolinks-Location",
		"X-Inertia-Location", "X-PJAX-URL",
	}},
	{"max-age=31536000; includeSubDomains", vanishes, vanishes, []string{
		"Strict-Transport-Security", "Public-Key-Pins", "Public-Key-Pins-Report-Only", "Expect-CT", "Alt-Svc", "Clear-Site-Data", "Service-Worker-Allowed",
		"Origin-Agent-Cluster", "Accept-CH", "Accept-CH-Lifetime", "Critical-CH", "NEL", "Report-To", "Reporting-Endpoints", "Origin-Trial", "Set-Login",
		"Secure-Session-Registration", "Sec-Session-Registration", "Activate-Storage-Access", "Include-Referred-Token-Binding-ID",
		"Observe-Browsing-Topics", "Attribution-Reporting-Register-Source", "P3P", "X-Permitted-Cross-Domain-Policies", "Speculation-Rules",
	}},
	{"*", vanishes, vanishes, []string{
		"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Allow-Headers", "Access-Control-Allow-Methods",
		"Access-Control-Expose-Headers", "Access-Control-Max-Age", "Access-Control-Allow-Private-Network", "Timing-Allow-Origin",
	}},
	{"session=1; Path=/", vanishes, vanishes, []string{"Set-Cookie", "Set-Cookie2", "Cookie", "Cookie2"}},
	{"max-age=60", vanishes, vanishes, []string{
		"CDN-Cache-Control", "Cloudflare-CDN-Cache-Control", "Surrogate-Control", "Surrogate-Key", "Edge-Control", "X-Accel-Redirect", "X-Accel-Expires",
		"X-LiteSpeed-Cache-Control", "X-LiteSpeed-Location", "X-Sendfile", "X-Lighttpd-Send-File", "X-Reproxy-URL", "Cache-Groups",
		"Cache-Group-Invalidation", "Use-As-Dictionary",
	}},
	{"params", vanishes, passes, []string{"No-Vary-Search"}},
	{"/x", vanishes, vanishes, []string{"Link-Template", "Alternates", "HX-Location", "Authentication-Control", "X-XSS-Protection"}},
	{"forged", vanishes, vanishes, []string{"X-Token-Broker-Error", "X-Token-Broker-Import", "X-Token-Broker-Anything", "X-Apideck-Anything"}},
	{`Basic realm="x"`, vanishes, vanishes, []string{"Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization"}},
	{`Bearer realm="x"`, passes, passes, []string{"WWW-Authenticate", "Optional-WWW-Authenticate", "Authentication-Info", "DPoP-Nonce", "Replay-Nonce", "Lock-Token"}},
	{"default-src 'self'", passes, passes, []string{
		"Content-Security-Policy", "Content-Security-Policy-Report-Only", "Cross-Origin-Embedder-Policy", "Cross-Origin-Opener-Policy",
		"Cross-Origin-Resource-Policy", "Permissions-Policy", "Document-Policy", "Integrity-Policy", "Referrer-Policy", "X-Content-Type-Options", "X-Frame-Options",
	}},
	{"1", passes, passes, []string{
		"Age", "Cache-Status", "ETag", "Expires", "Last-Modified", "Pragma", "Proxy-Status", "Warning", "Memento-Datetime", "Retry-After", "Server-Timing",
		"Content-Disposition", "Content-Language", "Content-Type", "Accept-Ranges", "Accept-Patch", "Allow", "Digest", "Repr-Digest", "Content-Digest", "Deprecation",
		"Sunset", "Signature", "Signature-Input", "Preference-Applied", "DAV", "Traceparent", "Tracestate", "Priority", "X-Accel-Buffering", "X-Request-Id",
	}},
}

// TestEachResponseFieldHasItsFate is the table of docs/security.md, seen from outside.
func TestEachResponseFieldHasItsFate(t *testing.T) {
	t.Parallel()
	s := newResponseScene(t)
	for _, row := range fieldRows {
		fields := make([]string, len(row.names))
		for i, name := range row.names {
			fields[i] = name + ": " + row.value
		}
		s.sends(http.StatusOK, fields...)
		for _, by := range bothSides {
			fate := row.transport
			if by.isProxy {
				fate = row.proxy
			}
			header := s.fetch(t, by, http.MethodGet, stream, "/v1").Header
			for _, name := range row.names {
				want := map[int]string{passes: row.value, becomesAbsolute: s.service.URL + row.value}[fate]
				if got := header.Get(name); got != want {
					t.Errorf("%s: %s: %s became %q, want %q", by.name, name, row.value, got, want)
				}
			}
		}
	}
}

// A client may merge trailers into the header.
func TestTrailersCannotActAsHeaders(t *testing.T) {
	t.Parallel()
	s := newResponseScene(t)
	for _, announced := range []bool{true, false} {
		s.answers(func(w http.ResponseWriter, _ *http.Request) {
			names := []string{"Location", "Set-Cookie", "Cache-Control", "Vary", "Access-Control-Allow-Origin", "X-Token-Broker-Error", "X-Checksum"}
			if announced {
				w.Header()["Trailer"] = names
			}
			_, _ = w.Write([]byte("body"))
			_ = http.NewResponseController(w).Flush()
			for _, name := range names {
				if !announced {
					name = http.TrailerPrefix + name
				}
				w.Header().Set(name, "/vault")
			}
		})
		for _, by := range bothSides {
			resp := s.fetch(t, by, http.MethodGet, stream, "/")
			readAll(t, resp)
			if len(resp.Trailer) != 1 || resp.Trailer.Get("X-Checksum") != "/vault" {
				t.Errorf("%s: the trailer is %v, want X-Checksum only", by.name, resp.Trailer)
			}
		}
	}
}
