// Command token-broker is Caddy with its standard modules and the token broker.
// It has every subcommand of caddy, and those that the token broker adds;
// `token-broker help` lists them.
package main

import (
	_ "time/tzdata" // Caddyfiles name time zones, and minimal images have no database of them

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/tokenbroker/caddy-token-broker"
)

func main() {
	caddy.CustomBinaryName = "token-broker" // in the texts of help
	caddycmd.Main()
}
