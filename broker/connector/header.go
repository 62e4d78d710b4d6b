package connector

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// tokenHeaders checks the headers of token requests. Other members decide how the client
// authenticates, and what the body is.
func (v *validation) tokenHeaders() {
	v.headers("token_header", v.d.TokenHeaders, func(name, value string) {
		if name == "Authorization" || name == "Accept-Encoding" || strings.HasPrefix(name, "Content-") {
			v.fail("token_header", "%s is set by the token request itself: remove it", name)
			return
		}
		v.requestText("token_header", name, value)
	})
}

// callHeaders checks the headers of calls.
func (v *validation) callHeaders() {
	v.headers("header", v.d.Headers, func(name, _ string) {
		switch {
		case name == "Authorization" || name == "Cookie" || slices.ContainsFunc(v.d.Inject, func(p Placement) bool { return p.slot() == "header "+name }):
			v.fail("header", "%s is for credentials: use inject", name)
		case isSecretName(name):
			v.fail("header", "%s is a secret by its name, and must not stand here: use inject with a setting", name)
		}
	})
}

// headers applies the rules for all headers, and calls check with each canonical name.
func (v *validation) headers(field string, headers map[string]string, check func(name, value string)) {
	seen := make(map[string]bool, len(headers))
	for _, written := range slices.Sorted(maps.Keys(headers)) {
		name, value := http.CanonicalHeaderKey(written), headers[written]
		if err := checkHeader(name, value); err != nil {
			v.fail(field, "%w", err)
			continue
		}
		if seen[name] {
			v.fail(field, "%s is set twice: remove one", name)
		}
		seen[name] = true
		check(name, value)
	}
}

func checkHeader(name, value string) error {
	switch {
	case !httpguts.ValidHeaderFieldName(name):
		return fmt.Errorf("%q is not a header's name: use letters, digits and hyphens", name)
	case slices.Contains(connectionHeaders, name):
		return fmt.Errorf("%s belongs to the connection: choose another one", name)
	case value == "" || hasControl(value) || !httpguts.ValidHeaderFieldValue(value):
		return fmt.Errorf("%s needs a value without control characters", name)
	}
	return nil
}
