// Package command adds subcommands to Caddy: `connectors` lists and describes the known
// connectors, `store` copies stores and looks after the embedded one, `import` sends a file of
// connections to a running broker, `verify` compares one with those that it has, `export` writes
// connections to a file, `status` counts them by state and health, and `activate` and `standby` say
// whether the broker or another system refreshes them.
package command

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/tokenbroker"
)

func init() {
	var dirs listFlag
	flags := flag.NewFlagSet("connectors", flag.ExitOnError)
	flags.String("config", "", "Configuration file whose catalogs and connector blocks are included")
	flags.String("adapter", "", "Name of the config adapter for --config")
	flags.Var(&dirs, "catalog", "Directory of connector files; can be repeated")
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "connectors",
		Usage: "[<unified_api>/<service_id>] [--config <path> [--adapter <name>]] [--catalog <dir>]",
		Short: "Lists the third-party services that the token broker knows",
		Long: `
Lists the services that the token broker knows: those in its built-in catalogue,
in connector files in the --catalog directories, and in the --config file, whose
connectors are the ones that can be used.

With the name of a connector it shows where the connector sends credentials, how
to configure it, and what to send to import a connection.

It works offline, alongside a running server, and needs no secrets.`,
		Flags: flags,
		Func: func(fl caddycmd.Flags) (int, error) {
			c := connectorsCommand{config: fl.String("config"), adapter: fl.String("adapter"), dirs: dirs, out: os.Stdout}
			if err := c.run(fl.Args()); err != nil {
				return caddy.ExitCodeFailedStartup, err
			}
			return caddy.ExitCodeSuccess, nil
		},
	})
}

// A listFlag is a flag that can be repeated.
type listFlag []string

// String implements [flag.Value].
func (f *listFlag) String() string { return strings.Join(*f, " ") }

// Set implements [flag.Value].
func (f *listFlag) Set(dir string) error {
	*f = append(*f, dir)
	return nil
}

// A connectorsCommand is one run of `token-broker connectors`.
type connectorsCommand struct {
	config, adapter string
	dirs            []string
	out             io.Writer
}

func (c *connectorsCommand) run(args []string) error {
	if len(args) > 1 {
		return fmt.Errorf("connectors takes one connector, or none to list all; got %d", len(args))
	}
	app, err := c.app()
	if err != nil {
		return err
	}
	known, err := app.KnownConnectors()
	if err != nil {
		return err
	}
	usable, err := app.UsableConnectors(known)
	if err != nil {
		return err
	}
	maps.Copy(known, usable)
	if len(args) == 0 {
		return c.list(known)
	}
	id, err := connector.ParseID(args[0])
	k, ok := known[id]
	if !ok {
		return unknownConnector(args[0], err, known)
	}
	_, err = io.WriteString(c.out, describe(&k))
	return err
}

// app returns the app with its catalogs and connectors configured, not provisioned.
func (c *connectorsCommand) app() (*tokenbroker.App, error) {
	app := &tokenbroker.App{}
	if c.config != "" {
		var err error
		if app, err = loadApp(c.config, c.adapter); err != nil {
			return nil, err
		}
	}
	for _, dir := range c.dirs {
		if !slices.Contains(app.Catalogs, dir) {
			app.Catalogs = append(app.Catalogs, dir)
		}
	}
	return app, nil
}

// loadApp returns the app of a configuration file, not provisioned.
func loadApp(path, adapter string) (*tokenbroker.App, error) {
	config, _, _, err := caddycmd.LoadConfig(path, adapter)
	if err != nil {
		return nil, err
	}
	var w struct {
		Apps struct {
			TokenBroker *tokenbroker.App `json:"token_broker"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(config, &w); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if w.Apps.TokenBroker == nil {
		return nil, fmt.Errorf("%s: the global option token_broker is missing", path)
	}
	return w.Apps.TokenBroker, nil
}

// list writes a line for each connector.
func (c *connectorsCommand) list(known map[connector.ID]tokenbroker.KnownConnector) error {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tNAME\tAUTH\tGRANT\tFROM\tSOURCE")
	for _, id := range slices.SortedFunc(maps.Keys(known), connector.ID.Compare) {
		k := known[id]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", id, k.Name, k.AuthType,
			cmp.Or(string(k.GrantType), "-"), k.From, cmp.Or(k.Source, "-"))
	}
	return w.Flush()
}

// unknownConnector returns the error for a name that no connector has. It suggests similar
// ones.
func unknownConnector(name string, err error, known map[connector.ID]tokenbroker.KnownConnector) error {
	near := tokenbroker.NearConnectors(name, known)
	switch {
	case len(near) > 0:
		return fmt.Errorf("there is no connector %s; did you mean %s?", name, strings.Join(near, ", "))
	case err != nil:
		return err
	default:
		return fmt.Errorf("there is no connector %s; `connectors` lists them, and docs/connectors.md says how to add one", name)
	}
}
