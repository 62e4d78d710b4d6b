package transport

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/argument"
)

// UnmarshalCaddyfile parses the transport. Syntax:
//
//	transport token_broker <unified_api>/<service_id> {
//		app      <id>
//		consumer <placeholder>
//		max_connection_age <duration> | off
//		...      any other option of the http transport
//	}
func (t *Transport) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // "token_broker"
	name := d.Token()
	if name.Quoted() { // block, below, makes braces of copies of this token
		return d.Err("write token_broker without quotes")
	}
	if err := argument.String(d, &t.Connector); err != nil {
		return d.Err("transport token_broker takes one argument, the connector: <unified_api>/<service_id>")
	}
	if !strings.Contains(t.Connector, "{") {
		if _, err := connector.ParseID(t.Connector); err != nil {
			return d.WrapErr(err)
		}
	}
	var options []caddyfile.Token // of the http transport
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch d.Val() {
		case "app":
			err = argument.String(d, &t.App)
		case "consumer":
			err = argument.String(d, &t.Consumer)
		case "max_connection_age":
			err = argument.DurationOrOff(d, &t.MaxConnectionAge)
		default:
			words := d.NextSegment()
			err = checkOption(d, words)
			options = append(options, words...)
		}
		if err != nil {
			return err
		}
	}
	if len(options) == 0 {
		return nil
	}
	return t.HTTPTransport.UnmarshalCaddyfile(caddyfile.NewDispenser(block(name, options)))
}

// checkOption refuses options with an error that names the line. [Transport.checkOptions]
// repeats the check for JSON.
func checkOption(d *caddyfile.Dispenser, words []caddyfile.Token) error {
	option := words[0].Text
	for _, word := range words[1:] {
		switch {
		case option == "versions" && word.Text == "3":
			return d.WrapErr(refusedOption("versions 3"))
		case option == "tls_server_name" && strings.Contains(word.Text, "{"):
			return d.WrapErr(refusedOption("tls_server_name with a placeholder"))
		}
	}
	switch option {
	case "network_proxy", "forward_proxy_url", "proxy_protocol", "resolvers", "tls_insecure_skip_verify":
		return d.WrapErr(refusedOption(option))
	}
	return nil
}

// block returns the tokens of a block with a name, including its braces.
func block(name caddyfile.Token, lines []caddyfile.Token) []caddyfile.Token {
	opening, closing := name, name
	opening.Text, closing.Text = "{", "}"
	last := lines[len(lines)-1]
	closing.Line = last.Line + last.NumLineBreaks() + 1
	return slices.Concat([]caddyfile.Token{name, opening}, lines, []caddyfile.Token{closing})
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Transport)(nil)
