package caller

import (
	"crypto/sha256"
	"crypto/subtle"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
)

// A Keyring knows the API keys of applications, as hashes only. It is not changed
// once callers are authenticated with it.
type Keyring struct {
	keys map[string][][sha256.Size]byte // application :: hashes of its keys
}

// NewKeyring returns a keyring without applications.
func NewKeyring() *Keyring {
	return &Keyring{keys: make(map[string][][sha256.Size]byte)}
}

// Add lets application authenticate with key, besides the keys that it has.
func (k *Keyring) Add(application string, key broker.Secret) {
	k.keys[application] = append(k.keys[application], sha256.Sum256([]byte(key.Reveal())))
}

// noKeys are compared with where there is no application. They are hashes of nothing.
var noKeys = make([][sha256.Size]byte, 1)

// Has reports whether there is such an application.
func (k *Keyring) Has(application string) bool { return len(k.keys[application]) > 0 }

// Authenticate returns nil if key is one of application's, else [apierror.ErrUnauthorized].
// The time that it takes depends neither on how much of a key is right nor on whether
// there is such an application.
func (k *Keyring) Authenticate(application string, key broker.Secret) error {
	hash := sha256.Sum256([]byte(key.Reveal()))
	match := 0
	known, ok := k.keys[application]
	if !ok {
		known = noKeys
	}
	for _, known := range known {
		match |= subtle.ConstantTimeCompare(hash[:], known[:])
	}
	if match != 1 || !ok {
		return apierror.ErrUnauthorized
	}
	return nil
}
