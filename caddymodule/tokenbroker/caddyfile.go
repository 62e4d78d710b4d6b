package tokenbroker

import (
	"encoding/json"
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/argument"
)

func init() {
	httpcaddyfile.RegisterGlobalOption(appName, parseGlobalOption)
}

// parseGlobalOption parses the global option token_broker. It may be repeated; existing is
// the result of the earlier blocks.
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	app := &App{}
	if earlier, ok := existing.(httpcaddyfile.App); ok {
		if err := json.Unmarshal(earlier.Value, app); err != nil {
			return nil, d.WrapErr(err)
		}
	}
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: appName, Value: caddyconfig.JSON(app, nil)}, nil
}

// UnmarshalCaddyfile adds a token_broker block to the configuration. Syntax:
//
//	token_broker {
//		storage <module> ...
//		app <id> {
//			api_key         <placeholder>
//			app_concurrency <n> | off
//			request_body    <size> | off
//		}
//		connector <unified_api>/<service_id> {
//			...
//		}
//		webhook <url> {
//			secret <placeholder>
//			events <pattern...>
//			allow_private
//		}
//		refresh {
//			timeout <duration>
//			give_up <duration>
//			retention <duration> | off
//			idle <duration> | off
//		}
//		catalog <dir...>
//		limits {
//			app_concurrency        <n> | off
//			connection_concurrency <n> | off
//			request_body           <size> | off
//			request_header         <size> | off
//		}
//		journal <dir>
//		cache_ttl <duration>
//		allow_private_hosts
//	}
//
// Blocks of the same name merge. Setting a single value twice is an error.
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // "token_broker"
	if d.NextArg() {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch word := d.Val(); word {
		case "storage":
			err = a.unmarshalStorage(d)
		case "app":
			err = a.unmarshalApplication(d)
		case "connector":
			err = a.unmarshalConnector(d)
		case "webhook":
			err = a.unmarshalWebhook(d)
		case "refresh":
			err = a.Refresh.unmarshal(d)
		case "limits":
			err = a.Limits.unmarshal(d)
		case "cache_ttl":
			err = argument.Duration(d, &a.CacheTTL)
		case "allow_private_hosts":
			err = argument.Flag(d, &a.AllowPrivateHosts)
		case "catalog":
			err = addAll(d, &a.Catalogs)
		case "journal":
			err = argument.String(d, &a.Journal)
		default:
			err = d.Errf("unrecognized subdirective of token_broker: %s", word)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *App) unmarshalStorage(d *caddyfile.Dispenser) error {
	if a.StorageRaw != nil {
		return d.Err("storage is already set")
	}
	if !d.NextArg() {
		return d.ArgErr()
	}
	name := d.Val()
	storage, err := caddyfile.UnmarshalModule(d, "token_broker.storage."+name)
	if err != nil {
		return err
	}
	a.StorageRaw = caddyconfig.JSONModuleObject(storage, "module", name, nil)
	return nil
}

func (a *App) unmarshalApplication(d *caddyfile.Dispenser) error {
	var name string
	if err := argument.String(d, &name); err != nil {
		return err
	}
	if a.Applications[name] == nil {
		if a.Applications == nil {
			a.Applications = make(map[string]*Application)
		}
		a.Applications[name] = &Application{}
	}
	app := a.Applications[name]
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch word := d.Val(); word {
		case "api_key":
			err = app.unmarshalKey(d, name)
		case "app_concurrency":
			err = setCount(d, &app.AppConcurrency)
		case "request_body":
			err = setSize(d, &app.RequestBody)
		default:
			err = d.Errf("unrecognized subdirective of app: %s", word)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *Application) unmarshalKey(d *caddyfile.Dispenser, name string) error {
	var key string
	if err := argument.String(d, &key); err != nil {
		return err
	}
	if slices.Contains(a.APIKeys, key) {
		return d.Errf("app %s already has this api_key", name)
	}
	a.APIKeys = append(a.APIKeys, key)
	return nil
}

func (r *RefreshConfig) unmarshal(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch word := d.Val(); word {
		case "timeout":
			err = argument.Duration(d, &r.Timeout)
		case "give_up":
			err = argument.Duration(d, &r.GiveUp)
		case "retention":
			err = argument.DurationOrOff(d, &r.Retention)
		case "idle":
			err = argument.DurationOrOff(d, &r.Idle)
		default:
			err = d.Errf("unrecognized subdirective of refresh: %s", word)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*App)(nil)
