package tests

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
)

// A webhookReceiver accepts every delivery and records it.
type webhookReceiver struct {
	url string

	mu         sync.Mutex
	deliveries []delivery // guarded by mu
}

// A delivery is a webhook as it was received.
type delivery struct {
	header http.Header
	body   []byte
}

func newWebhookReceiver(t testing.TB) *webhookReceiver {
	t.Helper()
	r := &webhookReceiver{}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.url = server.URL + "/hooks"
	return r
}

// ServeHTTP implements [http.Handler].
func (r *webhookReceiver) ServeHTTP(_ http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deliveries = append(r.deliveries, delivery{req.Header.Clone(), body})
}

// all returns the deliveries so far.
func (r *webhookReceiver) all() []delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.deliveries)
}

// of returns the deliveries so far with a type of event.
func (r *webhookReceiver) of(event string) []delivery {
	return slices.DeleteFunc(r.all(), func(d delivery) bool { return d.header.Get("x-apideck-event-type") != event })
}

// await waits for the first event of a type.
func (r *webhookReceiver) await(t testing.TB, event string) delivery {
	t.Helper()
	var got []delivery
	eventually(t, "the webhook "+event, func() error {
		if got = r.of(event); len(got) == 0 {
			return fmt.Errorf("got %d webhooks of other types", len(r.all()))
		}
		return nil
	})
	return got[0]
}

// isSigned reports whether the delivery is signed with the secret: by the hex HMAC-SHA256 of
// its body as received.
func (d delivery) isSigned(secret string) bool {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(d.body)
	return hmac.Equal([]byte(d.header.Get("x-apideck-signature")), []byte(hex.EncodeToString(mac.Sum(nil))))
}
