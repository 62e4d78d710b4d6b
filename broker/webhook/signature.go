package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// signature returns the hex HMAC-SHA256 of the body under the endpoint's secret.
func signature(key secret.String, body []byte) string {
	mac := hmac.New(sha256.New, []byte(key.Reveal()))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}
