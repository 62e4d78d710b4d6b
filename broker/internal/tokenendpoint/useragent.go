package tokenendpoint

import (
	"cmp"
	"runtime/debug"
	"strings"
)

const module = "github.com/tokenbroker/caddy-token-broker"

// userAgent names the broker to authorization servers. Some throttle or refuse the default
// names of HTTP libraries.
var userAgent = "token-broker/" + version() + " (+https://" + module + ")"

// version returns the module's version, "dev" if the build does not say.
func version() string {
	const unknown = "dev"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return unknown
	}
	found := ""
	if info.Main.Path == module {
		found = info.Main.Version
	}
	for _, dep := range info.Deps {
		if dep.Path == module {
			found = dep.Version
		}
	}
	if strings.HasPrefix(found, "(") { // "(devel)", which would be a comment
		found = ""
	}
	return cmp.Or(strings.TrimPrefix(found, "v"), unknown)
}
