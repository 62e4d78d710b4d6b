package record

// cloneObject returns a deep copy of a JSON object.
func cloneObject(o map[string]any) map[string]any {
	if o == nil {
		return nil
	}
	return cloneValue(o).(map[string]any)
}

func cloneValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		c := make(map[string]any, len(v))
		for k, m := range v {
			c[k] = cloneValue(m)
		}
		return c
	case []any:
		c := make([]any, len(v))
		for i, m := range v {
			c[i] = cloneValue(m)
		}
		return c
	default:
		return v
	}
}

// mergePatch applies patch to target as RFC 7396 describes and returns the result,
// which shares nothing with patch. An object in the patch, at any depth of objects,
// that has no member but "type" says nothing: it removes what stood under its key.
func mergePatch(target, patch map[string]any) map[string]any {
	if target == nil {
		target = make(map[string]any, len(patch))
	}
	for key, value := range patch {
		if value == nil {
			delete(target, key)
			continue
		}
		object, ok := value.(map[string]any)
		if !ok {
			target[key] = cloneValue(value)
			continue
		}
		if saysNothing(object) {
			delete(target, key)
			continue
		}
		old, _ := target[key].(map[string]any)
		merged := mergePatch(old, object)
		// What is left may be a lone "type" now that other members said nothing.
		if saysNothing(merged) {
			delete(target, key)
			continue
		}
		target[key] = merged
	}
	return target
}

// saysNothing reports whether a JSON object has only a "type" member.
func saysNothing(o map[string]any) bool {
	_, ok := o["type"]
	return ok && len(o) == 1
}
