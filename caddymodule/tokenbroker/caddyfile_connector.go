package tokenbroker

import (
	"slices"
	"strconv"
	"strings"

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
//		auth_style    header | header_raw | params | both
//		token_method  POST | GET
//		token_body    form | json
//		token_header  <name> <value>
//		token_params  <name> <value>
//		answer        access_token | refresh_token | expires_in | expires_at | refresh_expires_in <path> [<unit>]
//		capture       <setting> <path>
//		permanent_error <word...>
//		configuration_error <word...>
//		transient_error <word...>
//		early_error   <word...>
//		client_id     <id>
//		client_secret <placeholder>
//		rotation      always | never | window <duration>
//		keep_alive    <duration>
//		refresh_margin <duration>
//		refresh_rate  <n>/s
//		refresh_concurrency <n>
//		refresh_token optional
//		base_url      <url>
//		probe_path    <path>
//		allow_host    <host...>
//		header        <name> <value>
//		expired_status <code...>
//		expired_body  <code> <text>
//		setting       <name> [required] [sensitive] [origin] [default <value>]
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
	case "token_method":
		return argument.String(d, &c.TokenMethod)
	case "token_header":
		return addPair(d, &c.TokenHeaders, "a name and a value")
	case "token_params":
		return addPair(d, &c.TokenParams, "a name and a value")
	case "answer":
		return c.unmarshalAnswer(d)
	case "capture":
		return addPair(d, &c.Capture, "a setting and a path")
	case "permanent_error":
		return addAll(d, &c.PermanentErrors)
	case "configuration_error":
		return addAll(d, &c.ConfigurationErrors)
	case "transient_error":
		return addAll(d, &c.TransientErrors)
	case "early_error":
		return addAll(d, &c.EarlyErrors)
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
	case "refresh_margin":
		return argument.Duration(d, &c.RefreshMargin)
	case "refresh_rate":
		return argument.Parsed(d, &c.RefreshRate, connector.ParseRate)
	case "refresh_concurrency":
		return argument.Number(d, &c.RefreshConcurrency)
	case "refresh_token":
		return c.unmarshalRefreshToken(d)
	case "base_url":
		return argument.String(d, &c.BaseURL)
	case "probe_path":
		return argument.String(d, &c.ProbePath)
	case "allow_host":
		return addAll(d, &c.AllowHosts)
	case "header":
		return addPair(d, &c.Headers, "a name and a value")
	case "expired_status":
		return c.unmarshalExpiredStatus(d)
	case "expired_body":
		return c.unmarshalExpiredBody(d)
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

// addPair adds the two arguments of the line to dst, as a name that is new and its value.
func addPair(d *caddyfile.Dispenser, dst *map[string]string, what string) error {
	word := d.Val()
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.Errf("%s takes two arguments, %s", word, what) // ArgErr would quote them
	}
	return add(d, dst, word, args[0], args[1])
}

func add(d *caddyfile.Dispenser, dst *map[string]string, word, name, value string) error {
	if _, set := (*dst)[name]; set {
		return d.Errf("%s %s is already set", word, name)
	}
	if *dst == nil {
		*dst = make(map[string]string)
	}
	(*dst)[name] = value
	return nil
}

func (c *ConnectorConfig) unmarshalAnswer(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 || len(args) > 3 {
		return d.Err("answer takes a member, a path and possibly a unit: answer expires_in data.ttl ms")
	}
	return add(d, &c.Answer, "answer", args[0], strings.Join(args[1:], " "))
}

func (c *ConnectorConfig) unmarshalExpiredStatus(d *caddyfile.Dispenser) error {
	var codes []string
	if err := addAll(d, &codes); err != nil {
		return err
	}
	for _, code := range codes {
		status, err := strconv.Atoi(code)
		if err != nil {
			return d.Errf("expired_status: %s is not a status, such as 403", code)
		}
		if slices.Contains(c.ExpiredStatuses, status) {
			return d.Errf("expired_status %s is already set", code)
		}
		c.ExpiredStatuses = append(c.ExpiredStatuses, status)
	}
	return nil
}

func (c *ConnectorConfig) unmarshalExpiredBody(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.Err("expired_body takes two arguments, a status and a text")
	}
	status, err := strconv.Atoi(args[0])
	if err != nil {
		return d.Errf("expired_body: %s is not a status, such as 200", args[0])
	}
	body := connector.ExpiredBody{Status: status, Text: args[1]}
	if slices.Contains(c.ExpiredBodies, body) {
		return d.Errf("expired_body %s is already set", body)
	}
	c.ExpiredBodies = append(c.ExpiredBodies, body)
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
		if isDefault := d.Val() == "default"; isDefault && s.Default == "" {
			if !d.NextArg() || d.Val() == "" {
				return d.Errf("setting %s: default needs a value", s.Name)
			}
			s.Default = d.Val()
			continue
		}
		flag, known := flags[d.Val()]
		if !known {
			return d.Errf("setting %s: %s is not one of required, sensitive, origin, default", s.Name, d.Val())
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
