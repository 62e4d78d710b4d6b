package record

import (
	"maps"
	"slices"
)

// Captured splits the settings that an answer brought into those that the connection may
// have, and the names of those that it may not, which the connector's rules refuse: a host
// that it does not allow, or a setting that it does not declare.
func (c *Connector) Captured(settings map[string]any, found map[string]string) (allowed map[string]string, refused []string) {
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if c.CheckCaptured(settings, name, found[name]) != nil {
			refused = append(refused, name)
			continue
		}
		if allowed == nil {
			allowed = make(map[string]string, len(found))
		}
		allowed[name] = found[name]
	}
	return allowed, refused
}

// capture takes over the settings that an answer brought. They were checked with
// [Connector.Captured].
func (r *Record) capture(captured map[string]string) {
	if len(captured) == 0 {
		return
	}
	settings := maps.Clone(r.Settings)
	if settings == nil {
		settings = make(map[string]any, len(captured))
	}
	for name, value := range captured {
		settings[name] = value
	}
	r.Settings = settings
}

// setRefreshExpiry notes how long the refresh token lives. One that stays, and whose
// lifetime an answer does not say, keeps what was said of it before.
func (c *Credentials) setRefreshExpiry(ans Answer) {
	if ans.RefreshLifetime > 0 {
		c.RefreshExpiry = ans.SentAt.Add(ans.RefreshLifetime)
	}
}
