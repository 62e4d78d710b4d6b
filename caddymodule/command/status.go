package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"golang.org/x/term"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/status"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/storage"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/tokenbroker"
)

func init() {
	flags := flag.NewFlagSet("status", flag.ExitOnError)
	flags.String("config", "", "Configuration file that names the store")
	flags.String("adapter", "", "Name of the config adapter for --config")
	flags.String("app", "", "Application whose connections are counted; default: all")
	flags.String("connector", "", "Connector whose connections are counted, <unified_api>/<service_id>; default: all")
	flags.Bool("problems", false, "List the connections that need attention too")
	flags.Bool("json", false, "Write one JSON object")
	register(caddycmd.Command{
		Name:  "status",
		Usage: "--config <path> [--adapter <name>] [--app <id>] [--connector <unified_api>/<service_id>] [--problems] [--json]",
		Short: "Counts the stored connections by state and health",
		Long: `
Counts the connections in the store that the configuration names, for each
application and connector: how many are callable, by their health what they
need, and how many are in standby, disabled, or have an access token that has
expired or expires within the hour.

--problems lists the connections whose health is not ok, at most 1000 of them,
the most pressing first.

It changes no connection and shows no secrets. It reads the store itself, so it
needs the access that the server has: run it as the user of the server. An
embedded store that a running server has open is read through that server.`,
		Flags: flags,
	}, func(ctx context.Context, fl caddycmd.Flags) error {
		c := statusCommand{
			config: fl.String("config"), adapter: fl.String("adapter"), app: fl.String("app"), connector: fl.String("connector"),
			problems: fl.Bool("problems"), json: fl.Bool("json"), out: os.Stdout, messages: os.Stderr,
			terminal: term.IsTerminal(int(os.Stderr.Fd())),
		}
		return c.run(ctx, fl.Args())
	})
}

// A statusCommand is one run of `token-broker status`.
type statusCommand struct {
	config, adapter string
	app, connector  string // empty: all
	problems, json  bool

	out, messages io.Writer
	terminal      bool // messages are read on one
}

// maxProblems is how many connections --problems lists.
const maxProblems = 1000

func (c *statusCommand) run(ctx context.Context, args []string) error {
	err := c.count(ctx, args)
	switch {
	case err != nil && ctx.Err() != nil:
		return errors.New("interrupted")
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: run this as the user of the server", err)
	default:
		return err
	}
}

func (c *statusCommand) count(ctx context.Context, args []string) (err error) {
	selection, err := c.check(args)
	if err != nil {
		return err
	}
	app, err := loadApp(c.config, c.adapter)
	if err != nil {
		return err
	}
	connectors, err := definitions(app)
	if err != nil {
		return fmt.Errorf("%s: %w", c.config, err)
	}
	store, err := openStoreOf(ctx, app, c.config, storage.OpenOptions{Existing: true}, c.note)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	config := status.Config{Store: store.Store, Selection: selection, Connectors: connectors, Now: time.Now(), Read: new(atomic.Int64)}
	if c.problems {
		config.MaxProblems = maxProblems
	}
	done := c.showProgress(config.Read)
	report, err := status.Run(ctx, config)
	done()
	if err != nil {
		return err
	}
	if selected := selectionText(c.app, c.connector, ""); selected != "" && report.Total.Connections == 0 {
		return fmt.Errorf("%s has no connection %s", store.storage, selected)
	}
	if c.json {
		return c.writeJSON(store.storage.String(), config.Now, report)
	}
	return c.write(store.storage.String(), config.Now, report)
}

// check checks the flags.
func (c *statusCommand) check(args []string) (s status.Selection, err error) {
	s.Application = c.app
	switch {
	case len(args) > 0:
		return s, fmt.Errorf("status takes no words; got %s", args[0])
	case c.config == "":
		return s, errors.New("status needs --config, the configuration that names the store")
	case c.connector != "":
		s.Connector, err = connector.ParseID(c.connector)
	}
	return s, err
}

// note reports token responses in the journal. The store is read nevertheless.
func (c *statusCommand) note(err error) error {
	fmt.Fprintln(c.messages, "note:", err)
	return nil
}

// definitions returns the connectors that an app has configured.
func definitions(app *tokenbroker.App) (map[connector.ID]*connector.Definition, error) {
	known, err := app.KnownConnectors()
	if err != nil {
		return nil, err
	}
	usable, err := app.UsableConnectors(known)
	if err != nil {
		return nil, err
	}
	defs := make(map[connector.ID]*connector.Definition, len(usable))
	for id, k := range usable {
		defs[id] = &k.Definition
	}
	return defs, nil
}

// showProgress shows how many records were read, on a terminal, if that takes longer than a second.
// done ends it.
func (c *statusCommand) showProgress(read *atomic.Int64) (done func()) {
	if !c.terminal {
		return func() {}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for shown := false; ; {
			select {
			case <-ticker.C:
				shown = true
				fmt.Fprintf(c.messages, "\r\x1b[K%d records read", read.Load())
			case <-stop:
				if shown {
					fmt.Fprint(c.messages, "\r\x1b[K")
				}
				return
			}
		}
	}()
	return func() {
		close(stop)
		<-stopped
	}
}
