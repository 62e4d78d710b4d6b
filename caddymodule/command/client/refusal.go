package client

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/tokenbroker/caddy-token-broker/internal/retryafter"
)

// A request is repeated at most so many times, for about a minute if the broker does not say
// how long to wait.
const (
	maxTries      = 9
	minBackoff    = 250 * time.Millisecond
	maxBackoff    = 15 * time.Second
	maxRetryAfter = 2 * time.Minute
)

// never is the wait before an attempt that would be of no use.
const never time.Duration = -1

// backoff returns how long to wait after so many attempts.
func backoff(tries int) time.Duration {
	ceiling := min(maxBackoff, minBackoff<<tries)
	return ceiling/2 + rand.N(ceiling/2)
}

// An Error is a refusal of the broker. Its text contains no secret.
type Error struct {
	Status   int    // of HTTP
	TypeName string // such as ConnectorNotFoundError; empty if it is not an answer of the broker
	Message  string
}

// Error implements error.
func (e *Error) Error() string {
	if e.TypeName == "" {
		return fmt.Sprintf("the server answered %d %s; is it a token broker with connections_api?", e.Status, http.StatusText(e.Status))
	}
	return fmt.Sprintf("%s (%d): %s", e.TypeName, e.Status, e.Message)
}

// refusal returns the error of a response other than 2xx, and how long to wait before the
// next attempt.
func refusal(resp *http.Response) (time.Duration, error) {
	e := &Error{Status: resp.StatusCode}
	var body struct {
		TypeName string `json:"type_name"`
		Message  string `json:"message"`
	}
	if text, err := io.ReadAll(io.LimitReader(resp.Body, maxError)); err == nil && json.Unmarshal(text, &body) == nil {
		e.TypeName, e.Message = body.TypeName, body.Message
	}
	if e.TypeName == "StandbyError" {
		return never, e // the broker will not end that by itself
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
		return min(retryafter.Parse(resp.Header, time.Now()), maxRetryAfter), e
	default:
		return never, e
	}
}
