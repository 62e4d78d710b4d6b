package tokenbroker

import (
	"math"
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/argument"
)

// unmarshal parses the block limits.
func (l *LimitsConfig) unmarshal(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch word := d.Val(); word {
		case "app_concurrency":
			err = setCount(d, &l.AppConcurrency)
		case "connection_concurrency":
			err = setCount(d, &l.ConnectionConcurrency)
		case "request_body":
			err = setSize(d, &l.RequestBody)
		case "request_header":
			err = setSize(d, &l.RequestHeader)
		default:
			err = d.Errf("unrecognized subdirective of limits: %s", word)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// setCount sets dst to the line's only argument: a number, or off.
func setCount(d *caddyfile.Dispenser, dst *int) error {
	value, err := limitArgument(d, *dst != 0)
	if err != nil {
		return err
	}
	if value == "off" {
		*dst = noLimit
		return nil
	}
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil || n < 1 {
		return d.Errf("%s is neither a number above 0 nor off", value)
	}
	*dst = int(n)
	return nil
}

// setSize sets dst to the line's only argument: a size such as 100MiB, or off.
func setSize(d *caddyfile.Dispenser, dst *int64) error {
	value, err := limitArgument(d, *dst != 0)
	if err != nil {
		return err
	}
	if value == "off" {
		*dst = noLimit
		return nil
	}
	n, err := humanize.ParseBytes(value)
	if err != nil || n < 1 || n > math.MaxInt64 {
		return d.Errf("%s is neither a size, such as 100MiB, nor off", value)
	}
	*dst = int64(n)
	return nil
}

func limitArgument(d *caddyfile.Dispenser, isSet bool) (value string, err error) {
	if isSet {
		return "", d.Errf("%s is already set", d.Val())
	}
	err = argument.String(d, &value)
	return value, err
}
