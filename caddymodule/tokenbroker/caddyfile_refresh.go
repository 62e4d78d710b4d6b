package tokenbroker

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

func (c *ConnectorConfig) unmarshalRotation(d *caddyfile.Dispenser) error {
	if c.Rotation != (connector.Rotation{}) {
		return d.Err("rotation is already set")
	}
	args := d.RemainingArgs()
	switch {
	case len(args) == 1 && (args[0] == string(connector.RotationAlways) || args[0] == string(connector.RotationNever)):
		c.Rotation.Kind = connector.RotationKind(args[0])
		return nil
	case len(args) == 2 && args[0] == string(connector.RotationWindow):
		window, err := caddy.ParseDuration(args[1])
		if err != nil || window <= 0 {
			return d.Errf("rotation window: %s is not a duration, such as 30s or 1d", args[1])
		}
		c.Rotation = connector.Rotation{Kind: connector.RotationWindow, Window: window}
		return nil
	default:
		return d.Err("rotation is always, never, or window <duration>")
	}
}

func (c *ConnectorConfig) unmarshalRefreshToken(d *caddyfile.Dispenser) error {
	if c.RefreshTokenOptional {
		return d.Err("refresh_token is already set")
	}
	if args := d.RemainingArgs(); len(args) != 1 || args[0] != "optional" {
		return d.Err("refresh_token: the only allowed value is optional")
	}
	c.RefreshTokenOptional = true
	return nil
}
