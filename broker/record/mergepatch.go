package record

// mergePatch applies patch to target as RFC 7396 describes and returns the result, which
// shares nothing with patch. There is one addition: an object in the patch whose only member
// is "type" carries no data and removes the member it stands for, like null.
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
		if isTypeOnly(object) {
			delete(target, key)
			continue
		}
		old, _ := target[key].(map[string]any)
		merged := mergePatch(old, object)
		// Only "type" may be left once the other members are removed.
		if isTypeOnly(merged) {
			delete(target, key)
			continue
		}
		target[key] = merged
	}
	return target
}

// isTypeOnly reports whether "type" is the only member of a JSON object.
func isTypeOnly(o map[string]any) bool {
	_, ok := o["type"]
	return ok && len(o) == 1
}

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
