package secret

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"log/slog"
)

// Redacted is what a [String] shows of itself, whoever asks.
const Redacted = "REDACTED"

// A String is a string that must never be written anywhere: an access token, a
// refresh token, a client secret, an API key. However it is printed, logged or
// encoded it shows only "REDACTED"; [String.Reveal] is the one way to its value,
// so that the places which read it can be found and reviewed.
type String struct {
	_ [0]func() // no ==, which would compare addresses: see Equal

	// A pointer, because fmt gives a wrong verb deep inside a value the bare fields,
	// past every method: then it is an address that it prints.
	value *string
}

// New wraps value.
func New(value string) String {
	if value == "" {
		return String{}
	}
	return String{value: &value}
}

// Reveal returns the secret itself. Call it only where the value goes to the
// party that it is meant for.
func (s String) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// Equal reports whether two secrets are the same, in a time that does not depend on
// where they differ.
func (s String) Equal(other String) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// IsZero reports whether the secret is empty.
func (s String) IsZero() bool { return s.value == nil }

// Hash returns a digest by which a secret can be recognised again.
func (s String) Hash() Hash {
	sum := sha256.Sum256([]byte(s.Reveal()))
	return Hash(base64.RawStdEncoding.EncodeToString(sum[:]))
}

// Format implements [fmt.Formatter], which covers every verb, %#v and %x included.
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

// A Hash is the SHA-256 of a token, unpadded standard base64. Tokens have
// enough entropy that the hash does not give them away.
type Hash string
