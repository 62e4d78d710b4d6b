package caller

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
)

func TestKeyringTellsNothingApart(t *testing.T) {
	t.Parallel()
	ring := NewKeyring()
	ring.Add("app", secret.New("old"))
	ring.Add("app", secret.New("new"))
	ring.Add("other", secret.New("theirs"))
	for _, test := range []struct {
		app, key string
		want     error
	}{
		{"app", "old", nil},
		{"app", "new", nil},
		{"app", "theirs", apierror.ErrUnauthorized},
		{"app", "", apierror.ErrUnauthorized},
		{"app", "ol", apierror.ErrUnauthorized},
		{"nobody", "old", apierror.ErrUnauthorized},
		{"", "", apierror.ErrUnauthorized},
	} {
		if got := ring.authenticate(test.app, secret.New(test.key)); !errors.Is(got, test.want) {
			t.Errorf("%s with %q: got %v, want %v", test.app, test.key, got, test.want)
		}
	}
	brokertest.NoCanary(t, "keyring", fmt.Appendf(nil, "%+v", ring))
}
