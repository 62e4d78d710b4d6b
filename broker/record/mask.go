package record

import (
	"slices"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// Mask stands for a sensitive setting wherever settings are shown. Sent back, it
// means "as it was".
const Mask = "********"

// maskSettings returns a copy of settings without the values of sensitive ones.
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

// maskNested masks what looks sensitive inside a setting that is an object or a list.
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

// unmask returns settings without what is only the mask that callers are shown. A list
// with a mask in it is left out whole: nobody could say what stood there.
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

// isMasked reports whether something in a list is masked.
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
