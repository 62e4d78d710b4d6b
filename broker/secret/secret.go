// Package secret has a type for strings that must never be printed, logged or encoded: tokens,
// client secrets, API keys. It knows nothing of what they are for. Every package that handles
// credentials uses it.
package secret

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"log/slog"
)

// Redacted is the text that stands for a secret wherever it is written.
const Redacted = "REDACTED"

// A String is a secret string. Printed, logged or encoded it shows only [Redacted].
// [String.Reveal] is the only way to its value, so that all readers can be found and reviewed.
// The zero String is empty.
type String struct {
	_ [0]func() // forbids ==, which would compare addresses: see Equal

	// A pointer: given the wrong verb for a nested value, fmt bypasses all methods and prints
	// the fields. It then prints an address.
	value *string
}

// New wraps value.
func New(value string) String {
	if value == "" {
		return String{}
	}
	return String{value: &value}
}

// Reveal returns the secret itself. Call it only to send the value to the party that it is
// meant for, or to store it.
func (s String) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// Equal reports whether two secrets are the same. Its duration does not depend on where they
// differ.
func (s String) Equal(other String) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// IsZero reports whether the secret is empty.
func (s String) IsZero() bool { return s.value == nil }

// Hash returns a digest by which the secret can be recognised later.
func (s String) Hash() Hash {
	sum := sha256.Sum256([]byte(s.Reveal()))
	return Hash(base64.RawStdEncoding.EncodeToString(sum[:]))
}

// MAC returns the HMAC-SHA-256 of the secret (RFC 2104), by which somebody who has the secret
// and the key can recognise it.
func (s String) MAC(key []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(s.Reveal()))
	return mac.Sum(nil)
}

// HasMAC reports whether mac is that of the secret, which must not be empty. Its duration does
// not depend on where they differ.
func (s String) HasMAC(mac, key []byte) bool {
	return hmac.Equal(s.MAC(key), mac) && !s.IsZero()
}

// Format implements [fmt.Formatter], for every verb including %#v and %x.
func (String) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(Redacted)) }

// String implements [fmt.Stringer].
func (String) String() string { return Redacted }

// GoString implements [fmt.GoStringer].
func (String) GoString() string { return Redacted }

// LogValue implements [slog.LogValuer].
func (String) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText implements [encoding.TextMarshaler].
func (String) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MarshalJSON implements [encoding/json.Marshaler].
func (String) MarshalJSON() ([]byte, error) { return []byte(`"` + Redacted + `"`), nil }

// A Hash is the SHA-256 of a token in unpadded standard base64. Tokens have too much entropy
// to be guessed from it.
type Hash string
