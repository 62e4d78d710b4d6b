package record

import (
	"cmp"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// maxNameLen bounds application and consumer ids, in bytes.
const maxNameLen = 255

// Headers of the HTTP API, as the Field of an [InputError] spells them.
const (
	ApplicationField   = "x-apideck-app-id"
	ConsumerField      = "x-apideck-consumer-id"
	UnifiedAPIField    = "x-apideck-unified-api"
	ServiceField       = "x-apideck-service-id"
	DownstreamURLField = "x-apideck-downstream-url"
)

// OwnApplication is the application of the broker's own records, which are no connections.
// Replicas share these, and stores hold only records. No caller can send the control character.
const OwnApplication = "\x01broker"

// A Key names a connection: one customer (consumer) of an application at one
// third-party service (connector).
type Key struct {
	Application string       // the caller; header x-apideck-app-id
	Consumer    string       // the application's customer; header x-apideck-consumer-id
	Connector   connector.ID // the service, "crm/hubspot"
}

// String returns the key for logs, as in "my-app/jane/crm/hubspot". Names with unusual
// characters are quoted, so that the text is unambiguous.
func (k Key) String() string {
	return Quote(k.Application) + "/" + Quote(k.Consumer) + "/" + k.Connector.String()
}

// Compare orders keys by application, consumer and connector.
func (k Key) Compare(other Key) int {
	return cmp.Or(
		strings.Compare(k.Application, other.Application), strings.Compare(k.Consumer, other.Consumer), k.Connector.Compare(other.Connector),
	)
}

// Quote quotes a name of an application or consumer for logs and errors, if it contains
// characters other than letters, digits and a few harmless ones.
func Quote(s string) string {
	if strings.IndexFunc(s, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_.@:+", r)
	}) < 0 {
		return s
	}
	return fmt.Sprintf("%q", s)
}

// Validate returns nil if the key can name a connection. Otherwise it returns an
// [*InputError] that names the header at fault, or [ErrConnectorNotFound].
func (k Key) Validate() error {
	if err := ValidateName(ApplicationField, k.Application); err != nil {
		return err
	}
	if err := ValidateName(ConsumerField, k.Consumer); err != nil {
		return err
	}
	if err := k.Connector.Validate(); err != nil {
		return fmt.Errorf("%w: %s", ErrConnectorNotFound, k.Connector)
	}
	return nil
}

// ValidateName checks the name of an application or consumer that was sent in a header. Its
// error is an [*InputError].
func ValidateName(header, s string) error {
	if s == "" {
		return &InputError{Kind: InputHeaderMissing, Field: header, Fix: "send the header"}
	}
	return CheckName(InputHeader, header, s)
}

// CheckName checks the name of an application or consumer. Its error is an [*InputError] of
// that kind for that field.
func CheckName(kind InputKind, field, s string) error {
	var fault string
	switch {
	case s == "":
		fault = "is empty"
	case len(s) <= maxNameLen && isPrintableASCII(s):
		return nil // the common case
	case len(s) > maxNameLen:
		fault = fmt.Sprintf("is longer than %d bytes", maxNameLen)
	case !utf8.ValidString(s):
		fault = "is not valid UTF-8"
	case strings.ContainsFunc(s, unicode.IsControl):
		fault = "contains a control character"
	default:
		return nil
	}
	return &InputError{
		Kind: kind, Field: field, Fault: fault,
		Fix: fmt.Sprintf("send 1 to %d bytes of UTF-8 without control characters", maxNameLen),
	}
}

func isPrintableASCII(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
