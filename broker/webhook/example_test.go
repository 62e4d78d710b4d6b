package webhook_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// verify reports whether signature, the header X-Apideck-Signature, is that of body.
func verify(body []byte, signature, secret string) bool {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	got, err := hex.DecodeString(signature)
	return err == nil && hmac.Equal(got, mac.Sum(nil))
}

// A receiver verifies the bytes that it received.
func Example() {
	// RFC 4231 section 4.3, test case 2.
	body, secret := []byte("what do ya want for nothing?"), "Jefe"
	const signature = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
	fmt.Println(verify(body, signature, secret), verify(body, signature, "another secret"), verify(body, "", secret))
	// Output: true false false
}
