package transfer

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// nangoDB reads rows of Nango's table _nango_connections. Its column credentials_expires_at is
// not read: where Nango knew no expiry it made one up, a day ahead. The true one is in the
// credentials.
var nangoDB = preset{
	name: "nango-db", source: "Nango: the table _nango_connections, decrypted with NANGO_ENCRYPTION_KEY",
	fields:    nangoFields,
	connector: nangoConnector,
	consumer:  "{connection_id}",
	skip: func(c *columns) (string, error) {
		if deleted, err := c.text("deleted_at"); err != nil || deleted == "" {
			return "", err
		}
		return "deleted", nil
	},
	prepare: func(c *columns, d *decrypter) error {
		if err := d.decrypt(c); err != nil {
			return err
		}
		return prepareNango(c)
	},
}

// nangoAPI reads connections as Nango's API returns them.
var nangoAPI = preset{
	name: "nango-api", source: "Nango: answers of GET /connections/{connectionId}",
	fields:    nangoFields,
	connector: nangoConnector,
	consumer:  "{connection_id}",
	prepare:   func(c *columns, _ *decrypter) error { return prepareNango(c) },
}

var (
	nangoConnector = []string{"provider_config_key", "provider"}
	nangoFields    = map[string][]string{
		fieldAccessToken: {"credentials.access_token"}, fieldRefreshToken: {"credentials.refresh_token"},
		fieldExpiresAt:             {"credentials.expires_at"},
		fieldClientID:              {"credentials.config_override.client_id", "oauth_client_id"},
		prefixSettings + "api_key": {"credentials.apiKey"}, prefixSettings + "username": {"credentials.username"},
		prefixSettings + "password":      {"credentials.password"},
		prefixSettings + "client_id":     {"credentials.config_override.client_id"},
		prefixSettings + "client_secret": {"credentials.config_override.client_secret"},
		// Objects: each member becomes one of the settings or metadata.
		prefixSettings: {"connection_config"}, prefixMetadata: {"metadata"},
	}
)

// prepareNango refuses the kinds of credentials that cannot be imported.
func prepareNango(c *columns) error {
	kind, err := c.text("credentials.type")
	if err != nil {
		return err
	}
	switch kind {
	case "OAUTH2", "API_KEY", "BASIC":
		return nil
	case "":
		return rowError(ReasonField, "credentials.type is required: it says which kind of credentials the row has")
	default:
		return rowError(ReasonUnsupported, "credentials.type %s cannot be imported: OAUTH2, API_KEY and BASIC can", quoteName(kind))
	}
}

// A decrypter decrypts what Nango encrypts: AES-256-GCM without additional data, with an IV of
// 12 bytes and a tag of 16. Each has its own column, in base64.
type decrypter struct {
	aead   cipher.AEAD // nil without a key
	proven bool        // the key has decrypted a row
}

var errNangoKey = errors.New("NANGO_ENCRYPTION_KEY must be base64 of 32 bytes, as Nango has it")

func newDecrypter(key secret.String) (*decrypter, error) {
	if key.IsZero() {
		return &decrypter{}, nil
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(key.Reveal()))
	if err != nil || len(raw) != 32 {
		return nil, errNangoKey
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, errNangoKey
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, errNangoKey
	}
	return &decrypter{aead: aead}, nil
}

// decrypt replaces encrypted credentials. That the key is wrong is an error for all rows, and
// no [*RowError]: it is assumed if the first row cannot be decrypted.
func (d *decrypter) decrypt(c *columns) error {
	encrypted, err := c.text("credentials.encrypted_credentials")
	if err != nil || encrypted == "" {
		return err
	}
	if d.aead == nil {
		return errors.New("the credentials are encrypted: set NANGO_ENCRYPTION_KEY to the key with which Nango runs")
	}
	var parts [3][]byte
	for i, path := range []string{"credentials_iv", "credentials.encrypted_credentials", "credentials_tag"} {
		text, err := c.text(path)
		if err != nil {
			return err
		}
		if parts[i], err = base64.StdEncoding.DecodeString(text); err != nil || text == "" {
			return rowError(ReasonDamaged, "%s is not base64, or missing: select it with the other columns", path)
		}
	}
	iv, text, tag := parts[0], parts[1], parts[2]
	if len(iv) != d.aead.NonceSize() || len(tag) != d.aead.Overhead() {
		return rowError(ReasonDamaged, "credentials_iv must have 12 bytes, and credentials_tag 16")
	}
	plain, err := d.aead.Open(nil, iv, append(text, tag...), nil)
	if err != nil {
		if !d.proven {
			return errors.New("NANGO_ENCRYPTION_KEY does not decrypt the first encrypted row: it is not the key of this dump, or that row is damaged")
		}
		return rowError(ReasonDamaged, "the credentials do not match credentials_tag: the row is damaged, or encrypted with another key")
	}
	d.proven = true
	credentials, _ := decodeJSON(plain) // nil if it is no JSON
	if _, isObject := credentials.(map[string]any); !isObject {
		return rowError(ReasonDamaged, "the decrypted credentials are no JSON object")
	}
	name, _ := c.name("credentials") // it was found above
	c.values[name] = credentials
	return nil
}
