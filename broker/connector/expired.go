package connector

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
)

// An ExpiredBody is a downstream response that means that the access token has expired.
type ExpiredBody struct {
	// The response's status.
	Status int `json:"status"`

	// What its body contains, as it is sent.
	Text string `json:"text"`
}

// String returns e in Caddyfile syntax, "200 token_expired".
func (e ExpiredBody) String() string { return fmt.Sprintf("%d %s", e.Status, e.Text) }

// IsExpiredStatus reports whether a response with this status means that the access token
// has expired. 401 always does.
func (d *Definition) IsExpiredStatus(status int) bool {
	return status == http.StatusUnauthorized || slices.Contains(d.ExpiredStatuses, status)
}

// MayHaveExpiredBody reports whether the body of a response with this status can mean that
// the access token has expired.
func (d *Definition) MayHaveExpiredBody(status int) bool {
	return slices.ContainsFunc(d.ExpiredBodies, func(e ExpiredBody) bool { return e.Status == status })
}

// IsExpiredBody reports whether a response with this status and body means that the access
// token has expired.
func (d *Definition) IsExpiredBody(status int, body []byte) bool {
	return slices.ContainsFunc(d.ExpiredBodies, func(e ExpiredBody) bool {
		return e.Status == status && bytes.Contains(body, []byte(e.Text))
	})
}

func (v *validation) expired() {
	for _, status := range v.d.ExpiredStatuses {
		if status < 400 || status > 599 {
			v.fail("expired_status", "%d is not a status of an error, 400 to 599: use expired_body for others", status)
		}
	}
	for _, e := range v.d.ExpiredBodies {
		if e.Status < 200 || e.Status > 599 {
			v.fail("expired_body", "%d is not a status from 200 to 599", e.Status)
		}
		if e.Text == "" {
			v.fail("expired_body", "%d needs a text that the body contains", e.Status)
		}
	}
}
