package broker

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"log/slog"
)

// redacted is what a [Secret] shows of itself, whoever asks.
const redacted = "REDACTED"

// A Secret is a string that must never be written anywhere: an access token, a
// refresh token, a client secret, an API key. However it is printed, logged or
// encoded it shows only "REDACTED"; [Secret.Reveal] is the one way to its value,
// so that the places which read it can be found and reviewed.
type Secret struct {
	_ [0]func() // no ==, which would compare addresses: see Equal

	// A pointer, because fmt gives a wrong verb deep inside a value the bare fields,
	// past every method: then it is an address that it prints.
	value *string
}

// NewSecret wraps value.
func NewSecret(value string) Secret {
	if value == "" {
		return Secret{}
	}
	return Secret{value: &value}
}

// Reveal returns the secret itself. Call it only where the value goes to the
// party that it is meant for.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// Equal reports whether two secrets are the same, in a time that does not depend on
// where they differ.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.value == nil }

// Hash returns a digest by which a secret can be recognised again.
func (s Secret) Hash() TokenHash {
	sum := sha256.Sum256([]byte(s.Reveal()))
	return TokenHash(base64.RawStdEncoding.EncodeToString(sum[:]))
}

// Format implements [fmt.Formatter], which covers every verb, %#v and %x included.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// String implements [fmt.Stringer].
func (Secret) String() string { return redacted }

// GoString implements [fmt.GoStringer].
func (Secret) GoString() string { return redacted }

// LogValue implements [slog.LogValuer].
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements [encoding.TextMarshaler].
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON implements [encoding/json.Marshaler].
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// A TokenHash is the SHA-256 of a token, unpadded standard base64. Tokens have
// enough entropy that the hash does not give them away.
type TokenHash string
