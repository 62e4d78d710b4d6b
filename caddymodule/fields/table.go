package fields

import "strings"

// An action is the treatment of a field on its way to the caller.
type action uint8

const (
	kept action = iota
	removed
	resolved  // a URI reference
	links     // references between angle brackets, RFC 8288
	delayed   // a number of seconds and a reference, as Refresh has
	reporting // the references of Content-Security-Policy's report-uri
	challenge // parameters, some of which may be absolute URLs
)

// A row of the table has fields for which the same decision holds, for the same reason. A name
// that ends with an asterisk stands for all names that begin with the rest, one that begins
// with an asterisk for those that end with the rest. The table in docs/security.md has the
// same rows.
type row struct {
	names            []string
	proxy, transport action
	why              string
}

// table has the treatment of every response field that has a meaning for origins, caches or
// credentials, or names a URL that clients follow. All others are kept.
var table = []row{
	{
		[]string{
			"Location", "Content-Location", "Content-Base", "URI", "Redirect-Ref", "Status-URI", "SourceMap", "X-SourceMap", "OData-EntityId",
			"Operation-Location", "Azure-AsyncOperation", "X-Goog-Upload-URL", "X-Goog-Upload-Control-URL", "X-Redirect", "HX-Redirect", "HX-Push-Url",
			"HX-Replace-Url", "Turbolinks-Location", "Turbo-Location", "X-Inertia-Location", "X-PJAX-URL",
		},
		resolved, resolved, "a URL that clients follow: relative to downstream, not to the broker",
	},
	{[]string{"Link"}, links, links, "the same, in a list"},
	{[]string{"Refresh"}, delayed, delayed, "the same, after a delay"},
	{
		[]string{"Content-Security-Policy", "Content-Security-Policy-Report-Only"},
		reporting, reporting, "protects the document it comes with; only where it reports to is a URL",
	},
	{
		[]string{"WWW-Authenticate", "Optional-WWW-Authenticate"},
		challenge, challenge, "a caller that sends its own credential needs it; its URLs are absolute",
	},
	{
		[]string{"Link-Template", "Alternates", "HX-Location", "Speculation-Rules", "Authentication-Control", "X-XSS-Protection"},
		removed, removed, "has URLs in a form that is not worth taking apart",
	},
	{
		[]string{
			"Strict-Transport-Security", "Public-Key-Pins", "Public-Key-Pins-Report-Only", "Expect-CT", "Alt-Svc", "Clear-Site-Data",
			"Service-Worker-Allowed", "Origin-Agent-Cluster", "Accept-CH", "Accept-CH-Lifetime", "Critical-CH", "NEL", "Report-To",
			"Reporting-Endpoints", "Origin-Trial", "Set-Login", "Sec-*", "Secure-Session-*", "Activate-Storage-Access",
			"Include-Referred-Token-Binding-ID", "Observe-Browsing-Topics", "Attribution-Reporting-*", "P3P", "X-Permitted-Cross-Domain-Policies",
		},
		removed, removed, "speaks for a whole origin, which here is the broker's",
	},
	{
		[]string{"Access-Control-*", "Timing-Allow-Origin"},
		removed, removed, "which other sites may read what the broker answers is the operator's to say, with header_down or header",
	},
	{
		[]string{"Set-Cookie", "Set-Cookie2", "Cookie", "Cookie2"},
		removed, removed, "is stored for the broker's host, for all connections alike, and may be a credential; no cookie goes downstream",
	},
	{
		[]string{"Surrogate-*", "Edge-Control", "*-Cache-Control", "X-Accel-*", "X-LiteSpeed-*", "X-Sendfile", "X-Sendfile2", "X-Lighttpd-*", "X-Reproxy-*"},
		removed, removed, "instructs caches and front proxies of downstream, and yours would obey it",
	},
	{
		[]string{"Cache-Groups", "Cache-Group-Invalidation", "Use-As-Dictionary"},
		removed, removed, "concerns what caches hold of the whole origin, other connections included",
	},
	{[]string{"No-Vary-Search"}, removed, kept, "is about the query of downstream's URL, which is not that of /proxy"},
	{
		[]string{"X-Apideck*", "X-Token-Broker-*"},
		removed, removed, "only the broker may set it",
	},
	{
		[]string{"Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization", "Proxy-Features", "Proxy-Instruction", "Proxy-Connection"},
		removed, removed, "speaks for a proxy, which for the caller is the broker",
	},
	{
		[]string{
			"Sec-WebSocket-Accept", "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol", "Sec-WebSocket-Version", "X-Accel-Buffering",
			"Cross-Origin-Embedder-Policy", "Cross-Origin-Embedder-Policy-Report-Only", "Cross-Origin-Opener-Policy",
			"Cross-Origin-Opener-Policy-Report-Only", "Cross-Origin-Resource-Policy", "Permissions-Policy", "Permissions-Policy-Report-Only",
			"Document-Policy", "Integrity-Policy", "Referrer-Policy", "X-Content-Type-Options", "X-Frame-Options",
		},
		kept, kept, "concerns this response or connection alone, and only restricts it",
	},
	{
		[]string{"Authentication-Info", "DPoP-Nonce", "Replay-Nonce", "Lock-Token", "Memento-Datetime"},
		kept, kept, "a caller that sends its own credential needs it, and downstream alone accepts it",
	},
	{
		[]string{"Age", "Cache-Status", "ETag", "Expires", "Last-Modified", "Pragma", "Proxy-Status", "Warning"},
		kept, kept, "describes this response to caches, within what Cache-Control and Vary say",
	},
	{
		[]string{"Cache-Control", "Vary"},
		kept, kept, "the broker adds what it knows: see below the table",
	},
}

// A decision is what the table says about a name.
type decision struct{ proxy, transport action }

// exact, prefixes and suffixes are the table's names in canonical form, for lookups.
var (
	exact    = make(map[string]decision)
	prefixes [26][]affix // by first letter
	suffixes []affix
)

type affix struct {
	text string
	decision
}

// present says by first letter, as a set of bits, which lengths of names the table may have
// something about. Most fields of most responses are done with here.
var present [26]uint64

func init() {
	for _, r := range table {
		d := decision{r.proxy, r.transport}
		for _, name := range r.names {
			if text, ok := strings.CutSuffix(name, "*"); ok {
				text = canonical(text)
				letter := text[0] - 'A'
				prefixes[letter] = append(prefixes[letter], affix{text, d})
				present[letter] |= ^uint64(0) << len(text)
				continue
			}
			if text, ok := strings.CutPrefix(name, "*"); ok {
				suffixes = append(suffixes, affix{canonical(text[1:]), d})
				continue
			}
			name = canonical(name)
			exact[name] = d
			if d != (decision{}) { // otherwise it is here as an exception to a prefix, which is present
				present[name[0]-'A'] |= 1 << len(name)
			}
		}
	}
}

// decide returns what the table says about a canonical name.
func decide(name string) decision {
	if name == "" || isPlain(name) {
		return decision{}
	}
	if d, ok := exact[name]; ok {
		return d
	}
	if letter := name[0] - 'A'; int(letter) < len(prefixes) {
		for _, p := range prefixes[letter] {
			if strings.HasPrefix(name, p.text) {
				return p.decision
			}
		}
	}
	for _, s := range suffixes {
		if rest, ok := strings.CutSuffix(name, s.text); ok && strings.HasSuffix(rest, "-") {
			return s.decision
		}
	}
	return decision{}
}

// isPlain reports whether the table certainly says nothing about a canonical name.
func isPlain(name string) bool {
	const suffix = len("Cache-Control")
	if name == "" || len(name) > 63 || name[0] < 'A' || name[0] > 'Z' {
		return false
	}
	return present[name[0]-'A']&(1<<len(name)) == 0 && (len(name) <= suffix || name[len(name)-suffix] != 'C' || name[len(name)-1] != 'l')
}
