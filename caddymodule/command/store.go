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
	flags := flag.NewFlagSet("store", flag.ExitOnError)
	flags.String("config", "", "Configuration file that names the store")
	flags.String("adapter", "", "Name of the config adapter for --config")
	flags.String("dir", "", "Directory of the store, in place of --config")
	flags.String("out", "", "File that rebuild creates")
	flags.String("from", "", "Configuration file that names the store to copy from")
	flags.String("to", "", "Configuration file that names the store to copy to")
	flags.String("key", "", "New key for rekey, as a placeholder such as {file./run/secrets/store_key}")
	flags.String("key-file", "", "New key file for rekey")
	flags.Bool("replace", false, "Replace what the store that is copied to has already, unless that is newer")
	register(caddycmd.Command{
		Name: "store",
		Usage: "check|rebuild|rekey|copy [--config <path> [--adapter <name>] | --dir <dir>] [--out <file>] " +
			"[--key <placeholder> | --key-file <path>] [--from <path> --to <path> [--replace]]",
		Short: "Copies stores; checks, rebuilds or rekeys the embedded store",
		Long: `
Copies connections from one store to another, changes the key of the embedded
store, finds damage in it, and saves what a damaged one still has.

  store check    reads the whole store and lists all damage, with the connections
                 that it costs. It changes nothing, and works alongside a running
                 server. The exit code is 1 if there is damage.
  store rebuild  saves every connection that can be read into a new database, the
                 file --out, and lists those that are lost. It changes nothing else.
                 Stop the server first.
  store rekey    encrypts the store with a new key and destroys the old one. The new
                 key takes the place of the old one, or is where --key or
                 --key-file says. Stop the server first. If it is broken off, also
                 by a crash, run it again.
  store copy     copies every connection from the store that the configuration
                 --from names to that of --to, and compares both at the end. In
                 the old store the connections are put into standby: nothing is
                 refreshed there any longer. It can be broken off and run again.
                 What the new store has already is kept. The exit code is 1
                 unless the copy is complete.

Without --config and --dir it takes the default directory.`,
		Flags: flags,
	}, func(ctx context.Context, fl caddycmd.Flags) error {
		c := storeCommand{
			config: fl.String("config"), adapter: fl.String("adapter"), dir: fl.String("dir"),
			file: fl.String("out"), from: fl.String("from"), to: fl.String("to"), replace: fl.Bool("replace"),
			key: fl.String("key"), keyFile: fl.String("key-file"), out: os.Stdout,
		}
		return c.run(ctx, fl.Args())
	})
}

// A storeCommand is one run of `token-broker store`.
type storeCommand struct {
	config, adapter, dir string
	file                 string // for rebuild
	from, to             string // for copy, as replace
	replace              bool
	key, keyFile         string // for rekey
	out                  io.Writer
}

func (c *storeCommand) run(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("store needs one of the words %s; got %d words", storeWords, len(args))
	}
	switch args[0] {
	case "check":
		return c.check(ctx)
	case "rebuild":
		return c.rebuild(ctx)
	case "rekey":
		return c.rekey(ctx)
	case "copy":
		return c.copy(ctx)
	default:
		return fmt.Errorf("store knows %s; got %s", storeWords, args[0])
	}
}

const storeWords = "check, rebuild, rekey and copy"

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
