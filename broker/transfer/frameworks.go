package transfer

import (
	"encoding/hex"
	"strings"
)

// allauth reads the tables of django-allauth, joined. The refresh token is in token_secret;
// only with OAuth 1 is that a secret.
var allauth = preset{
	name: "allauth", source: "django-allauth: socialaccount_socialtoken, joined with socialaccount and socialapp",
	fields: map[string][]string{
		fieldAccessToken: {"token"}, fieldRefreshToken: {"token_secret"}, fieldExpiresAt: {"expires_at"}, fieldClientID: {"client_id"},
	},
	connector: []string{"provider_id", "provider"},
	consumer:  "{user_id}",
}

// socialAuth reads the table of python-social-auth. The tokens are in extra_data, whose expires
// is a lifetime that counts from auth_time, or a time.
var socialAuth = preset{
	name: "social-auth", source: "python-social-auth: the table social_auth_usersocialauth",
	fields: map[string][]string{
		fieldAccessToken: {"extra_data.access_token"}, fieldRefreshToken: {"extra_data.refresh_token"},
		fieldExpiresAt: {"extra_data.expires", "extra_data.expires_in"}, fieldIssuedAt: {"extra_data.auth_time"},
	},
	connector: []string{"provider"},
	consumer:  "{user_id}",
	skip: func(c *columns) (string, error) {
		if _, isOAuth1 := c.value("extra_data.access_token").(map[string]any); isOAuth1 {
			return "", rowError(ReasonUnsupported, "extra_data.access_token is an object, as with OAuth 1: only OAuth 2 can be imported")
		}
		return "", nil
	},
}

// spring reads the table of Spring Security. Tokens are bytes there, which dumps write as
// hexadecimal digits.
var spring = preset{
	name: "spring", source: "Spring Security: the table oauth2_authorized_client",
	fields: map[string][]string{
		fieldAccessToken: {springAccess}, fieldRefreshToken: {springRefresh},
		fieldIssuedAt: {"access_token_issued_at"}, fieldExpiresAt: {"access_token_expires_at"},
	},
	connector: []string{"client_registration_id"},
	consumer:  "{principal_name}",
	prepare: func(c *columns, _ *decrypter) error {
		for _, column := range []string{springAccess, springRefresh} {
			text, err := c.text(column)
			if err != nil {
				return err
			}
			if name, ok := c.name(column); ok {
				c.values[name] = decodeBytes(text)
			}
		}
		return nil
	},
}

const (
	springAccess  = "access_token_value"
	springRefresh = "refresh_token_value"
)

// decodeBytes returns the text that a dump wrote as hexadecimal digits, with \x or 0x before
// them, or alone. A token that consists of such digits stays as it is: read as bytes it hardly
// ever has only visible characters.
func decodeBytes(text string) string {
	digits, hasPrefix := strings.CutPrefix(strings.Replace(text, "0x", `\x`, 1), `\x`)
	decoded, err := hex.DecodeString(digits)
	isVisible := func(c rune) bool { return c >= 0x20 && c <= 0x7e }
	if err != nil || !hasPrefix && strings.ContainsFunc(string(decoded), func(c rune) bool { return !isVisible(c) }) {
		return text
	}
	return string(decoded)
}
