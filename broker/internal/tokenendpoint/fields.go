package tokenendpoint

import (
	"encoding/json"
	"math"
	"mime"
	"net/url"
	"time"
)

// fields returns the members of the response that are strings, read leniently. Those of an
// object in "error" are "error.code" and so on.
func (x *exchange) fields() map[string]string {
	fields := make(map[string]string)
	if x.isJSON() {
		var members map[string]json.RawMessage
		if json.Unmarshal(x.body, &members) != nil {
			return nil
		}
		addStrings(fields, "", members)
		var nested map[string]json.RawMessage
		if json.Unmarshal(members["error"], &nested) == nil {
			addStrings(fields, "error.", nested)
		}
		return fields
	}
	if kind, _, _ := mime.ParseMediaType(x.header.Get("Content-Type")); kind != "application/x-www-form-urlencoded" && kind != "text/plain" {
		return nil
	}
	values, err := url.ParseQuery(string(x.body))
	if err != nil {
		return nil
	}
	for name := range values {
		fields[name] = values.Get(name)
	}
	return fields
}

// addStrings adds the members that are strings to fields, with a prefix.
func addStrings(fields map[string]string, prefix string, members map[string]json.RawMessage) {
	for name, raw := range members {
		var s string
		if json.Unmarshal(raw, &s) == nil {
			fields[prefix+name] = s
		}
	}
}

// lifetime returns the response's expires_in (RFC 6749 section 5.1), 0 if it has none. Some
// endpoints send a string.
func (x *exchange) lifetime() time.Duration {
	var answer struct {
		ExpiresIn json.Number `json:"expires_in"`
	}
	if x.isJSON() {
		_ = json.Unmarshal(x.body, &answer) // an unreadable one counts as missing
	} else if form, err := url.ParseQuery(string(x.body)); err == nil {
		answer.ExpiresIn = json.Number(form.Get("expires_in"))
	}
	seconds, err := answer.ExpiresIn.Int64()
	if err != nil {
		return 0
	}
	return time.Duration(min(seconds, math.MaxInt32)) * time.Second
}
