package transfer

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// nangoRow returns a row of _nango_connections whose credentials are encrypted as Nango's
// documentation says: AES-256-GCM, with IV and tag in columns of their own.
func nangoRow(t *testing.T, key []byte, connection, credentials, deletedAt string) string {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	iv := make([]byte, 12)
	_, _ = rand.Read(iv)
	sealed := aead.Seal(nil, iv, []byte(credentials), nil)
	text, tag := sealed[:len(sealed)-16], sealed[len(sealed)-16:]
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("hubspot,%s,\"{\"\"encrypted_credentials\"\":\"\"%s\"\"}\",%s,%s,2026-11-29 00:00:00+00,%s\n",
		connection, encode(text), encode(iv), encode(tag), deletedAt)
}

const nangoHeader = "provider_config_key,connection_id,credentials,credentials_iv,credentials_tag,credentials_expires_at,deleted_at\n"

func nangoKey(b byte) ([]byte, secret.String) {
	key := []byte(strings.Repeat(string(b), 32))
	return key, secret.New(base64.StdEncoding.EncodeToString(key))
}

func TestNangoDumpIsDecrypted(t *testing.T) {
	t.Parallel()
	key, encoded := nangoKey('k')
	other, _ := nangoKey('o')
	got := convert(t, Options{Format: "nango-db", Connectors: hubspot, EncryptionKey: encoded}, nangoHeader+
		nangoRow(t, key, "jane", `{"type":"OAUTH2","access_token":"at-1","refresh_token":"rt-1","expires_at":"2026-01-02T15:04:05.000Z","raw":{}}`, "")+
		nangoRow(t, key, "jane", `{"type":"OAUTH2","access_token":"at-1","refresh_token":"rt-1"}`, "")+
		nangoRow(t, other, "gone", `{}`, "2026-01-01 00:00:00+00")+
		nangoRow(t, other, "joe", `{}`, "")+
		nangoRow(t, key, "jane", `{"type":"API_KEY","apiKey":"key-1"}`, "")+
		`hubspot,jane,"{""type"":""BASIC"",""username"":""u"",""password"":""p""}",,,,`+"\n")
	want := []string{
		tokens("," + at),
		tokens(""), // not the expiry that Nango made up
		"skipped: deleted",
		"refused: the credentials do not match credentials_tag: the row is damaged, or encrypted with another key",
		janeHubspot + `,"settings":{"api_key":"key-1"}}`,
		janeHubspot + `,"settings":{"password":"p","username":"u"}}`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestAWrongNangoKeyIsOneError(t *testing.T) {
	t.Parallel()
	key, _ := nangoKey('k')
	_, other := nangoKey('o')
	file := nangoHeader + nangoRow(t, key, "a", `{"type":"OAUTH2"}`, "") + nangoRow(t, key, "b", `{"type":"OAUTH2"}`, "")
	got := convert(t, Options{Format: "nango-db", Connectors: hubspot, EncryptionKey: other}, file)
	if len(got) != 1 || !strings.HasPrefix(got[0], "fatal: NANGO_ENCRYPTION_KEY does not decrypt the first encrypted row") {
		t.Errorf("got %v", got)
	}
	got = convert(t, Options{Format: "nango-db", Connectors: hubspot}, file)
	if len(got) != 1 || !strings.HasPrefix(got[0], "fatal: the credentials are encrypted: set NANGO_ENCRYPTION_KEY") {
		t.Errorf("got %v", got)
	}
	if _, err := NewConverter(Options{EncryptionKey: secret.New("short")}); err == nil || strings.Contains(err.Error(), "short") {
		t.Errorf("got %v, want an error without the key", err)
	}
}

func TestNangoRowsThatCannotBeDecryptedAreNamed(t *testing.T) {
	t.Parallel()
	key, encoded := nangoKey('k')
	good := nangoRow(t, key, "jane", `{"type":"BASIC","username":"u","password":"p"}`, "")
	for row, want := range map[string]string{
		`hubspot,j,"{""encrypted_credentials"":""AAAA""}",,,,`:                                   "refused: credentials_iv is not base64, or missing",
		`hubspot,j,"{""encrypted_credentials"":""AAAA""}",AAAA,AAAA,,`:                           "refused: credentials_iv must have 12 bytes",
		`hubspot,j,"{""encrypted_credentials"":""!""}",AAAA,AAAA,,`:                              "refused: credentials.encrypted_credentials is not base64",
		strings.TrimSpace(nangoRow(t, key, "j", `[]`, "")):                                       "refused: the decrypted credentials are no JSON object",
		strings.TrimSpace(nangoRow(t, key, "j", `{"access_token":"a"}`, "")):                     "refused: credentials.type is required",
		strings.TrimSpace(nangoRow(t, key, "j", `{"type":"OAUTH1","oauth_token":"SECRET"}`, "")): `refused: credentials.type "OAUTH1" cannot be imported`,
	} {
		got := convert(t, Options{Format: "nango-db", Connectors: hubspot, EncryptionKey: encoded}, nangoHeader+good+row+"\n")
		if len(got) != 2 || !strings.HasPrefix(got[1], want) {
			t.Errorf("%s: got %v, want %q", row, got, want)
		}
	}
}
