// Package argument reads the arguments of Caddyfile lines. Setting a value twice is an
// error, and no error quotes a value that may be a secret.
package argument

import (
	"fmt"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// String sets dst to the line's only argument.
func String[T ~string](d *caddyfile.Dispenser, dst *T) error {
	word := d.Val()
	if *dst != "" {
		return d.Errf("%s is already set", word)
	}
	args := d.RemainingArgs()
	if len(args) != 1 || args[0] == "" {
		return d.Errf("%s takes one argument", word) // ArgErr would quote the arguments, which may be secret
	}
	*dst = T(args[0])
	return nil
}

// Parsed sets dst to the line's only argument, as parse reads it. The zero value is unset.
func Parsed[T comparable](d *caddyfile.Dispenser, dst *T, parse func(string) (T, error)) error {
	word := d.Val()
	if *dst != *new(T) {
		return d.Errf("%s is already set", word)
	}
	var text string
	if err := String(d, &text); err != nil {
		return err
	}
	value, err := parse(text)
	if err != nil {
		return d.Errf("%s: %v", word, err)
	}
	*dst = value
	return nil
}

// Number sets dst to the line's only argument, a number above zero.
func Number(d *caddyfile.Dispenser, dst *int) error {
	return Parsed(d, dst, func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return 0, fmt.Errorf("%s is not a number above zero", text)
		}
		return n, nil
	})
}

// Duration sets dst to the line's only argument, a positive duration.
func Duration[T caddy.Duration | time.Duration](d *caddyfile.Dispenser, dst *T) error {
	word, duration := d.Val(), *dst
	err := Parsed(d, &duration, func(text string) (T, error) {
		parsed, err := caddy.ParseDuration(text)
		if err != nil {
			return 0, fmt.Errorf("%s is not a duration, such as 30s or 1d", text)
		}
		return T(parsed), nil
	})
	if err != nil {
		return err
	}
	if duration <= 0 {
		return d.Errf("%s must be longer than 0", word)
	}
	*dst = duration
	return nil
}

// Off is the value of a duration that is off.
const Off = -1

// DurationOrOff sets dst to the line's only argument: a positive duration, or off.
func DurationOrOff(d *caddyfile.Dispenser, dst *caddy.Duration) error {
	if *dst == 0 && d.CountRemainingArgs() == 1 {
		d.NextArg()
		if d.Val() == "off" {
			*dst = Off
			return nil
		}
		d.Prev()
	}
	return Duration(d, dst)
}

// Flag sets dst to true. The line takes no arguments.
func Flag(d *caddyfile.Dispenser, dst *bool) error {
	if *dst {
		return d.Errf("%s is already set", d.Val())
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	*dst = true
	return nil
}
