package exchange

import (
	"context"
	"errors"
	"net"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenbroker/caddy-token-broker/broker"
)

// Dial connects to downstream. Its errors are dial errors, which reverse_proxy retries,
// except [broker.ErrAddressNotAllowed].
func Dial(ctx context.Context, dialer *net.Dialer, network, address string) (net.Conn, error) {
	quietNetHTTP()
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil && !errors.Is(err, broker.ErrAddressNotAllowed) {
		return nil, reverseproxy.NewDialError(err)
	}
	return conn, err
}
