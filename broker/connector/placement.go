package connector

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// ownHeaders are the headers that belong to a connection or to the framing of a
// message (RFC 9110 section 7.6.1, RFC 9112), so nothing may be injected there.
var ownHeaders = []string{
	"Connection", "Content-Length", "Expect", "Host", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

var errPlacementValue = errors.New("has a control character in it, which no header can carry")

// Header returns what a placement in a header puts there for value. A value that no
// header can carry (RFC 9110 section 5.5) is an error, which does not repeat it.
func (p *Placement) Header(value string) (string, error) {
	if !httpguts.ValidHeaderFieldValue(value) {
		return "", fmt.Errorf("the value for header %s %w", p.Name, errPlacementValue)
	}
	format := p.Format
	if format == "" {
		format = "%s"
	}
	return strings.Replace(format, "%s", value, 1), nil
}

// validateFormat allows one %s and, since a stray percent sign is a mistake more
// often than not, no other.
func validateFormat(format string) error {
	switch {
	case strings.Count(format, "%") != 1 || strings.Count(format, "%s") != 1:
		return errors.New("must have one %s, and no other %")
	case !httpguts.ValidHeaderFieldValue(format):
		return errors.New("must not have control characters in it")
	}
	return nil
}

// place names what a placement writes to, so that two that write to the same are
// found.
func (p *Placement) place() string {
	switch p.Kind {
	case InBasic:
		return "header Authorization"
	case InQuery:
		return "query " + p.Name
	default:
		return "header " + http.CanonicalHeaderKey(p.Name)
	}
}

// validate reports what is wrong with the placement itself.
func (p *Placement) validate() error {
	switch p.Kind {
	case InHeader:
		if !httpguts.ValidHeaderFieldName(p.Name) {
			return fmt.Errorf("header name %q is not a token: use letters, digits and hyphens", p.Name)
		}
		if slices.Contains(ownHeaders, http.CanonicalHeaderKey(p.Name)) {
			return fmt.Errorf("header %s belongs to the connection: choose another", p.Name)
		}
		if p.Format != "" {
			if err := validateFormat(p.Format); err != nil {
				return fmt.Errorf("the format of header %s %w", p.Name, err)
			}
		}
	case InQuery:
		if p.Name == "" || hasControl(p.Name) {
			return errors.New("query needs the parameter's name")
		}
		if p.Format != "" {
			return errors.New("query takes no format")
		}
	case InBasic:
		if p.Setting == "" || p.PasswordSetting == "" {
			return errors.New("basic needs two settings: the user name and the password")
		}
		if p.Name != "" || p.Format != "" {
			return errors.New("basic takes neither name nor format")
		}
	default:
		return fmt.Errorf("%q is not header, query or basic", p.Kind)
	}
	if p.Kind != InBasic && p.PasswordSetting != "" {
		return errors.New("only basic has a password")
	}
	return nil
}
