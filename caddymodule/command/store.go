package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/storage"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/tokenbroker"
)

func init() {
	const which = "[--config <path> [--adapter <name>] | --dir <dir>]"
	rebuild, rekey, copying := storeFlags("rebuild"), storeFlags("rekey"), flag.NewFlagSet("copy", flag.ExitOnError)
	rebuild.String("out", "", "File to create")
	rekey.String("key", "", "New key, as a placeholder such as {file./run/secrets/store_key}")
	rekey.String("key-file", "", "New key file")
	copying.String("from", "", "Configuration file that names the store to copy from")
	copying.String("to", "", "Configuration file that names the store to copy to")
	copying.String("adapter", "", "Name of the config adapter for --from and --to")
	copying.Bool("replace", false, "Replace what the store that is copied to has already, unless that is newer")
	registerGroup(caddycmd.Command{
		Name:  "store",
		Usage: "check|rebuild|rekey|copy",
		Short: "Copies stores; checks, rebuilds or rekeys the embedded store",
		Long: `
Copies connections from one store to another, changes the key of the embedded
store, finds damage in it, and saves what a damaged one still has.`,
	}, member{caddycmd.Command{
		Name: "check", Usage: which, Flags: storeFlags("check"),
		Short: "Lists all damage in the embedded store",
		Long: `
Reads the whole store and lists all damage, with the connections that it costs.
It changes nothing, and works alongside a running server. The exit code is 1 if
there is damage.` + defaultDirectory,
	}, runStore((*storeCommand).check)}, member{caddycmd.Command{
		Name: "rebuild", Usage: which + " --out <file>", Flags: rebuild,
		Short: "Saves what can be read of a damaged embedded store",
		Long: `
Saves every connection that can be read into a new database, the file --out, and
lists those that are lost. It changes nothing else. Stop the server first.` + defaultDirectory,
	}, runStore((*storeCommand).rebuild)}, member{caddycmd.Command{
		Name: "rekey", Usage: which + " [--key <placeholder> | --key-file <path>]", Flags: rekey,
		Short: "Encrypts the embedded store with a new key",
		Long: `
Encrypts the store with a new key and destroys the old one. The new key takes the
place of the old one, or is where --key or --key-file says. Stop the server
first. If it is broken off, also by a crash, run it again.` + defaultDirectory,
	}, runStore((*storeCommand).rekey)}, member{caddycmd.Command{
		Name: "copy", Usage: "--from <path> --to <path> [--adapter <name>] [--replace]", Flags: copying,
		Short: "Copies all connections from one store to another",
		Long: `
Copies every connection from the store that the configuration --from names to that
of --to, and compares both at the end. In the old store the connections are put
into standby: nothing is refreshed there any longer. It can be broken off and run
again. What the new store has already is kept. The exit code is 1 unless the copy
is complete.`,
	}, runStore((*storeCommand).copy)})
}

const defaultDirectory = `

Without --config and --dir it takes the store in the default directory.`

// storeFlags returns the flags that name an embedded store.
func storeFlags(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	flags.String("config", "", "Configuration file that names the store")
	flags.String("adapter", "", "Name of the config adapter for --config")
	flags.String("dir", "", "Directory of the store, in place of --config")
	return flags
}

// runStore returns what runs a subcommand of store.
func runStore(do func(*storeCommand, context.Context) error) runner {
	return func(ctx context.Context, fl caddycmd.Flags) error {
		if word := fl.Arg(0); word != "" {
			return fmt.Errorf("it takes flags only; got %s", word)
		}
		text := func(name string) string { // not every subcommand has every flag
			if f := fl.Lookup(name); f != nil {
				return f.Value.String()
			}
			return ""
		}
		return do(&storeCommand{
			config: text("config"), adapter: text("adapter"), dir: text("dir"),
			file: text("out"), from: text("from"), to: text("to"), replace: text("replace") == "true",
			key: text("key"), keyFile: text("key-file"), out: os.Stdout,
		}, ctx)
	}
}

// A storeCommand is one run of a subcommand of `token-broker store`.
type storeCommand struct {
	config, adapter, dir string
	file                 string // for rebuild
	from, to             string // for copy, as replace
	replace              bool
	key, keyFile         string // for rekey
	out                  io.Writer
}

// store returns the store that the flags name.
func (c *storeCommand) store() (*storage.Embedded, error) {
	_, store, err := c.embedded()
	return store, err
}

// embedded returns the store that the flags name, and the configuration that it is of.
func (c *storeCommand) embedded() (*tokenbroker.App, *storage.Embedded, error) {
	app := &tokenbroker.App{}
	if c.config != "" {
		if c.dir != "" {
			return nil, nil, errors.New("--config and --dir exclude each other")
		}
		var err error
		if app, err = loadApp(c.config, c.adapter); err != nil {
			return nil, nil, err
		}
		if module := app.StorageModule(); module != "embedded" {
			return nil, nil, fmt.Errorf("%s: the storage is %s; only the embedded one is a file that can be checked, rebuilt or rekeyed", c.config, module)
		}
	} else {
		app.StorageRaw = caddyconfig.JSONModuleObject(storage.Embedded{Dir: c.dir}, "module", "embedded", nil)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	s, err := app.ResolveStorage(ctx)
	if err != nil {
		return nil, nil, err
	}
	embedded, ok := s.(*storage.Embedded)
	if !ok { // cannot happen
		return nil, nil, fmt.Errorf("the storage is %s", s)
	}
	return app, embedded, nil
}

func (c *storeCommand) check(ctx context.Context) error {
	store, err := c.store()
	if err != nil {
		return err
	}
	r, err := store.Check(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s: %d connections can be read\n", r.Path, r.Readable)
	if len(r.Damage) == 0 {
		return nil
	}
	c.list("damage:", r.Damage)
	c.list("cannot be read; rebuild saves them:", r.Repairable)
	c.list("lost:", r.Lost)
	if r.Changing {
		fmt.Fprintln(c.out, "The store was written to during the check, so some of this may be wrong: stop the server and check again.")
	}
	return fmt.Errorf("%s is damaged: restore a backup that is not older than the last refresh, or stop the server and run `store rebuild`", r.Path)
}

func (c *storeCommand) rebuild(ctx context.Context) error {
	store, err := c.store()
	if err != nil {
		return err
	}
	if c.file == "" {
		return errors.New("rebuild needs --out, the file to create")
	}
	r, err := store.Rebuild(ctx, c.file)
	if err != nil {
		return err
	}
	c.list("damage:", r.Damage)
	c.list("lost:", r.Lost)
	fmt.Fprintf(c.out, "%d connections were saved into %s, and %d are lost.\n", r.Readable+len(r.Repairable), c.file, len(r.Lost))
	fmt.Fprintf(c.out, "To use it, keep the server stopped, move %s away, move %s to its place, and start the server.\n", r.Path, c.file)
	if len(r.Lost) > 0 {
		fmt.Fprintln(c.out, "Then let the customers of the lost connections authorise them again, and import them.")
	}
	return nil
}

// list writes a title and a line for each item, or nothing if there is none.
func (c *storeCommand) list(title string, items []string) {
	if len(items) == 0 {
		return
	}
	fmt.Fprintln(c.out, title)
	for _, item := range items {
		fmt.Fprintln(c.out, "  "+item)
	}
}
