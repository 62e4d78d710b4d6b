// Package caller authenticates the applications that call the token broker.
package caller

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
)

// A Keyring holds hashes of the applications' API keys. Add must not be called once
// Authenticate is in use.
type Keyring struct {
	keys map[string][][sha256.Size]byte // by application
}

// NewKeyring returns an empty keyring.
func NewKeyring() *Keyring {
	return &Keyring{keys: make(map[string][][sha256.Size]byte)}
}

// Add adds key to those that application can authenticate with.
func (k *Keyring) Add(application string, key secret.String) {
	k.keys[application] = append(k.keys[application], sha256.Sum256([]byte(key.Reveal())))
}

// noKeys stands in for the keys of an unknown application, so that checking takes as long.
// No key is known that hashes to zeros.
var noKeys = make([][sha256.Size]byte, 1)

// Has reports whether application has a key.
func (k *Keyring) Has(application string) bool { return len(k.keys[application]) > 0 }

// authenticate returns nil if key is one of application's, otherwise
// [apierror.ErrUnauthorized]. Its duration reveals neither how much of the key matches nor
// whether the application exists.
func (k *Keyring) authenticate(application string, key secret.String) error {
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

// Authenticate checks the application id and API key of a request and returns the
// application.
func (k *Keyring) Authenticate(header http.Header) (string, error) {
	authorization, err := apideck.OnlyValue(header, "Authorization")
	if err != nil {
		return "", err
	}
	if authorization == "" {
		return "", apierror.Unauthorized("Missing authentication: send Authorization: Bearer <api key>")
	}
	application, err := apideck.RequiredValue(header, apideck.AppHeader)
	if err != nil {
		return "", err
	}
	scheme, key, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "Bearer") { // RFC 9110 section 11.1
		return "", apierror.Unauthorized("Unknown authentication scheme: send Authorization: Bearer <api key>")
	}
	return application, k.authenticate(application, secret.New(strings.TrimSpace(key)))
}
