package record

import (
	"slices"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// Mask replaces the value of a sensitive setting wherever settings are shown. In an import or
// update it means that the stored value stays.
const Mask = "********"

// maskSettings returns a copy of settings with sensitive values masked.
func maskSettings(def *connector.Definition, settings map[string]any) map[string]any {
	masked := make(map[string]any, len(settings))
	for name, value := range settings {
		if def.IsSensitive(name) && value != nil && value != "" {
			value = Mask
		}
		masked[name] = maskNested(def, value)
	}
	return masked
}

// maskNested masks members with sensitive names inside an object or list.
func maskNested(def *connector.Definition, value any) any {
	switch value := value.(type) {
	case map[string]any:
		return maskSettings(def, value)
	case []any:
		masked := make([]any, len(value))
		for i, v := range value {
			masked[i] = maskNested(def, v)
		}
		return masked
	default:
		return value
	}
}

// unmask returns a copy of settings without masked values, for a merge that leaves the stored
// ones in place. A list with a masked value is omitted whole, since its elements cannot be
// matched with the stored ones.
func (c *Connector) unmask(settings map[string]any) map[string]any {
	out := make(map[string]any, len(settings))
	for name, value := range settings {
		switch nested := value.(type) {
		case map[string]any:
			out[name] = c.unmask(nested)
		case []any:
			if !c.isMasked(nested) {
				out[name] = value
			}
		default:
			if value != Mask || !c.IsSensitive(name) {
				out[name] = value
			}
		}
	}
	return out
}

// isMasked reports whether a list contains a masked value at any depth.
func (c *Connector) isMasked(list []any) bool {
	return slices.ContainsFunc(list, func(value any) bool {
		switch nested := value.(type) {
		case []any:
			return c.isMasked(nested)
		case map[string]any:
			for name, value := range nested {
				if value == Mask && c.IsSensitive(name) || c.isMasked([]any{value}) {
					return true
				}
			}
		}
		return false
	})
}
