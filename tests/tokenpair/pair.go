// Package tokenpair has tokens that say whose they are, for token endpoints that must do little
// for a request: those of the benchmarks and of the load runs.
package tokenpair

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A Pair is an access token and its refresh token. Each refresh of a connection gives the next
// number.
type Pair struct{ Connection, Number int }

// The tokens have 64 bytes, as many services' have.
const (
	accessFormat  = "access-token-%010d-%040d"
	refreshFormat = "refresh-token-%010d-%039d"
)

// Access returns the access token.
func (p Pair) Access() string { return fmt.Sprintf(accessFormat, p.Connection, p.Number) }

// Refresh returns the refresh token.
func (p Pair) Refresh() string { return fmt.Sprintf(refreshFormat, p.Connection, p.Number) }

// Next returns the pair that a refresh gives.
func (p Pair) Next() Pair { return Pair{p.Connection, p.Number + 1} }

// ParseAccess returns the pair of an access token.
func ParseAccess(token string) (p Pair, ok bool) { return parse(token, "access-token-") }

// ParseRefresh returns the pair of a refresh token.
func ParseRefresh(token string) (p Pair, ok bool) { return parse(token, "refresh-token-") }

func parse(token, prefix string) (p Pair, ok bool) {
	digits, found := strings.CutPrefix(token, prefix)
	first, second, both := strings.Cut(digits, "-")
	connection, connectionErr := strconv.Atoi(first)
	number, numberErr := strconv.Atoi(second)
	return Pair{connection, number}, found && both && connectionErr == nil && numberErr == nil
}

// Issue answers a token request with the pair, as in RFC 6749 section 5.1.
func (p Pair) Issue(w http.ResponseWriter, lifetime time.Duration) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(map[string]any{
		"access_token": p.Access(), "refresh_token": p.Refresh(), "token_type": "Bearer", "expires_in": int(lifetime / time.Second),
	})
}

// Refuse answers a token request with invalid_grant, as in RFC 6749 section 5.2.
func Refuse(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	_, _ = w.Write([]byte(`{"error":"invalid_grant"}`))
}
