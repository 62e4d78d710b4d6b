package transfertest

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// A row is a connection before it is written in a format.
type row struct {
	consumer, provider string
	connector          connector.ID
	access, refresh    string
	expires            time.Time
	expiry             any // in place of expires, if set
}

// in returns the expiry in a unit of the format.
func (r *row) in(value any) any {
	if r.expiry != nil {
		return r.expiry
	}
	return value
}

func (r *row) sql() any  { return r.in(r.expires.Format("2006-01-02 15:04:05")) }
func (r *row) unix() any { return r.in(r.expires.Unix()) }
func (r *row) iso() any  { return r.in(r.expires.Format(time.RFC3339)) }

// A shape is how a format's rows look.
type shape struct {
	json    bool
	columns []string
	values  func(*row) []any
}

type object = map[string]any

var shapes = map[string]shape{
	"canonical": {true, []string{"consumer_id", "unified_api", "service_id", "credentials"}, func(r *row) []any {
		c := object{"expires_at": r.iso()}
		if r.access != "" {
			c["access_token"] = r.access
		}
		if r.refresh != "" {
			c["refresh_token"] = r.refresh
		}
		return []any{r.consumer, r.connector.UnifiedAPI, r.connector.ServiceID, c}
	}},
	"nango-api": {true, []string{"connection_id", "provider_config_key", "provider", "credentials", "connection_config"}, func(r *row) []any {
		return []any{r.consumer, r.provider, r.provider, r.nango(), object{}}
	}},
	"nango-db": {false, []string{"connection_id", "provider_config_key", "credentials", "credentials_iv", "credentials_tag", "credentials_expires_at", "deleted_at"}, func(r *row) []any {
		text, iv, tag := encrypt(encode(r.nango()))
		return []any{r.consumer, r.provider, encode(object{"encrypted_credentials": text}), iv, tag, "2026-01-02 00:00:00+00", ""}
	}},
	"authjs": {false, []string{"id", "userId", "type", "provider", "providerAccountId", "refresh_token", "access_token", "expires_at"}, func(r *row) []any {
		return []any{1, r.consumer, "oauth", r.provider, 77, r.refresh, r.access, r.unix()}
	}},
	"better-auth": {false, []string{"id", "accountId", "providerId", "userId", "accessToken", "refreshToken", "accessTokenExpiresAt", "password"}, func(r *row) []any {
		return []any{1, 77, r.provider, r.consumer, r.access, r.refresh, r.sql(), ""}
	}},
	"allauth": {false, []string{"user_id", "provider", "client_id", "token", "token_secret", "expires_at"}, func(r *row) []any {
		return []any{r.consumer, r.provider, "client-1", r.access, r.refresh, r.sql()}
	}},
	"social-auth": {true, []string{"id", "provider", "uid", "extra_data", "user_id"}, func(r *row) []any {
		return []any{1, r.provider, "77", object{
			"access_token": r.access, "refresh_token": r.refresh, "expires": r.in(3600 * 24), "auth_time": r.expires.Unix() - 3600*24,
		}, r.consumer}
	}},
	"omniauth": {false, []string{"provider", "uid", "token", "refresh_token", "expires_at", "user_id"}, func(r *row) []any {
		return []any{r.provider, 77, r.access, r.refresh, r.unix(), r.consumer}
	}},
	"socialite": {false, []string{"user_id", "provider", "provider_id", "token", "refresh_token", "expires_at"}, func(r *row) []any {
		return []any{r.consumer, r.provider, 77, r.access, r.refresh, r.sql()}
	}},
	"spring": {false, []string{"client_registration_id", "principal_name", "access_token_value", "access_token_issued_at", "access_token_expires_at", "refresh_token_value"}, func(r *row) []any {
		return []any{r.provider, r.consumer, hexBytes(r.access), r.expires.Add(-24 * time.Hour).Format("2006-01-02 15:04:05"), r.sql(), hexBytes(r.refresh)}
	}},
	"pipedream": {true, []string{"id", "external_id", "app", "expires_at", "credentials"}, func(r *row) []any {
		return []any{"apn_1", r.consumer, object{"name_slug": r.provider}, r.iso(), object{
			"oauth_client_id": "client-1", "oauth_access_token": r.access, "oauth_refresh_token": r.refresh,
		}}
	}},
	"oauth2-token": {true, []string{"consumer_id", "provider", "access_token", "token_type", "refresh_token", "expiry"}, func(r *row) []any {
		return []any{r.consumer, r.provider, r.access, "Bearer", r.refresh, r.iso()}
	}},
	"google": {true, []string{"consumer_id", "provider", "access_token", "refresh_token", "scope", "expiry_date"}, func(r *row) []any {
		return []any{r.consumer, r.provider, r.access, r.refresh, "a b", r.in(r.expires.UnixMilli())}
	}},
}

// nango returns the credentials as Nango has them.
func (r *row) nango() object {
	return object{"type": "OAUTH2", "access_token": r.access, "refresh_token": r.refresh, "expires_at": r.iso(), "raw": object{}}
}

func hexBytes(s string) string {
	if s == "" {
		return ""
	}
	return `\x` + hex.EncodeToString([]byte(s))
}

// nangoKey is the key with which credentials are encrypted.
var nangoKey = []byte("0123456789abcdef0123456789abcdef")

// encrypted counts what was encrypted: an IV may not be used twice.
var encrypted atomic.Uint64

// encrypt encrypts credentials as Nango does: AES-256-GCM, with an IV of 12 bytes and a tag of
// 16, each in base64.
func encrypt(plain string) (text, iv, tag string) {
	block, err := aes.NewCipher(nangoKey)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	count := encrypted.Add(1)
	nonce := binary.BigEndian.AppendUint64(make([]byte, 4), count)
	sealed := aead.Seal(nil, nonce, []byte(plain), nil)
	at := len(sealed) - aead.Overhead()
	return base64.StdEncoding.EncodeToString(sealed[:at]), base64.StdEncoding.EncodeToString(nonce), base64.StdEncoding.EncodeToString(sealed[at:])
}
