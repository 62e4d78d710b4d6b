package tokenbroker

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/argument"
)

// unmarshalConnector reads a connector. Syntax:
//
//	connector <unified_api>/<service_id> {
//		name          <text>
//		auth_type     oauth2 | apiKey | basic | custom | none
//		grant_type    <grant>
//		token_url     <url>
//		refresh_url   <url>
//		revocation_url <url>
//		auth_style    header | params
//		token_body    form | json
//		token_params  <name> <value>
//		permanent_error <code...>
//		client_id     <id>
//		client_secret <placeholder>
//		rotation      always | never | window <duration>
//		keep_alive    <duration>
//		refresh_token optional
//		base_url      <url>
//		allow_host    <host...>
//		setting       <name> [required] [sensitive] [origin]
//		inject        header <name> [<format> [<setting>]] | query <name> [<setting>] | cookie <name> [<setting>] |
//		              basic <setting> <setting> | basic <username>:<password>
//		allow_private
//	}
func (a *App) unmarshalConnector(d *caddyfile.Dispenser) error {
	var name string
	if err := argument.String(d, &name); err != nil {
		return err
	}
	if _, err := connector.ParseID(name); err != nil {
		return d.WrapErr(err)
	}
	if a.Connectors[name] == nil {
		if a.Connectors == nil {
			a.Connectors = make(map[string]*ConnectorConfig)
		}
		a.Connectors[name] = &ConnectorConfig{}
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := a.Connectors[name].unmarshalLine(d); err != nil {
			return err
		}
	}
	return nil
}

func (c *ConnectorConfig) unmarshalLine(d *caddyfile.Dispenser) error {
	switch word := d.Val(); word {
	case "name":
		return argument.String(d, &c.Name)
	case "auth_type":
		return argument.String(d, &c.AuthType)
	case "grant_type":
		return argument.String(d, &c.GrantType)
	case "token_url":
		return argument.String(d, &c.TokenURL)
	case "revocation_url":
		return argument.String(d, &c.RevocationURL)
	case "refresh_url":
		return argument.String(d, &c.RefreshURL)
	case "token_body":
		return argument.String(d, &c.TokenBody)
	case "token_params":
		return c.unmarshalTokenParam(d)
	case "permanent_error":
		return addAll(d, &c.PermanentErrors)
	case "auth_style":
		return argument.String(d, &c.AuthStyle)
	case "client_id":
		return argument.String(d, &c.ClientID)
	case "client_secret":
		return argument.String(d, &c.ClientSecret)
	case "rotation":
		return c.unmarshalRotation(d)
	case "keep_alive":
		return argument.Duration(d, &c.KeepAlive)
	case "refresh_token":
		return c.unmarshalRefreshToken(d)
	case "base_url":
		return argument.String(d, &c.BaseURL)
	case "allow_host":
		return addAll(d, &c.AllowHosts)
	case "setting":
		return c.unmarshalSetting(d)
	case "inject":
		return c.unmarshalInject(d)
	case "allow_private":
		return argument.Flag(d, &c.AllowPrivate)
	default:
		return d.Errf("unrecognized subdirective of connector: %s", word)
	}
}

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

// addAll adds the arguments of the line to dst. One that is there already is an error.
func addAll(d *caddyfile.Dispenser, dst *[]string) error {
	word := d.Val()
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.ArgErr()
	}
	for _, arg := range args {
		if slices.Contains(*dst, arg) {
			return d.Errf("%s %s is already set", word, arg)
		}
		*dst = append(*dst, arg)
	}
	return nil
}

func (c *ConnectorConfig) unmarshalTokenParam(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.Err("token_params takes two arguments, a name and a value") // ArgErr would quote them
	}
	if _, set := c.TokenParams[args[0]]; set {
		return d.Errf("token_params %s is already set", args[0])
	}
	if c.TokenParams == nil {
		c.TokenParams = make(map[string]string)
	}
	c.TokenParams[args[0]] = args[1]
	return nil
}

func (c *ConnectorConfig) unmarshalSetting(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	s := connector.Setting{Name: d.Val()}
	if slices.ContainsFunc(c.Settings, func(other connector.Setting) bool { return other.Name == s.Name }) {
		return d.Errf("setting %s is already set", s.Name)
	}
	flags := map[string]*bool{"required": &s.Required, "sensitive": &s.Sensitive, "origin": &s.Origin}
	for d.NextArg() {
		flag, known := flags[d.Val()]
		if !known {
			return d.Errf("setting %s: %s is not one of required, sensitive, origin", s.Name, d.Val())
		}
		if *flag {
			return d.Errf("setting %s: %s is already set", s.Name, d.Val())
		}
		*flag = true
	}
	c.Settings = append(c.Settings, s)
	return nil
}

func (c *ConnectorConfig) unmarshalInject(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	p := connector.Placement{Kind: connector.PlacementKind(d.Val())}
	args := d.RemainingArgs()
	switch {
	case p.Kind == connector.InHeader && len(args) >= 1 && len(args) <= 3:
		fill(args, &p.Name, &p.Format, &p.Setting)
	case (p.Kind == connector.InQuery || p.Kind == connector.InCookie) && len(args) >= 1 && len(args) <= 2:
		fill(args, &p.Name, &p.Setting)
	case p.Kind == connector.InBasic && len(args) == 2:
		fill(args, &p.Setting, &p.PasswordSetting)
	case p.Kind == connector.InBasic && len(args) == 1 && strings.Contains(args[0], ":"):
		p.Username, p.Password, _ = strings.Cut(args[0], ":")
	default:
		return d.Err("inject is header <name> [<format> [<setting>]], query <name> [<setting>], cookie <name> [<setting>], " +
			"basic <setting> <setting>, or basic with text, \"{email}/token:{api_token}\"")
	}
	if slices.ContainsFunc(c.Inject, func(other connector.Placement) bool { return other.Kind == p.Kind && other.Name == p.Name }) {
		return d.Errf("%s is already set", strings.TrimSpace("inject "+string(p.Kind)+" "+p.Name))
	}
	c.Inject = append(c.Inject, p)
	return nil
}

// fill sets as many targets as there are arguments.
func fill(args []string, targets ...*string) {
	for i, arg := range args {
		*targets[i] = arg
	}
}
