package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"time"
	_ "time/tzdata" // for --timezone where the system has no zones

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"golang.org/x/term"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/client"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/importing"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/sealed"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/placeholder"
)

func init() {
	var mappings, connectors listFlag
	flags := flag.NewFlagSet("import", flag.ExitOnError)
	client.AddFlags(flags)
	flags.String("format", "canonical", "Format of the rows")
	flags.Var(&mappings, "map", "Field of a column: <column>=<field>; can be repeated")
	flags.Var(&connectors, "connector", "Connector of the rows with a value, or of all rows: [<value>=]<unified_api>/<service_id>; can be repeated")
	flags.String("consumer", "", "How to make the consumer's id of a row's columns, such as {organization_id}")
	flags.String("timezone", "UTC", "Zone of times that have none, such as Europe/Berlin")
	flags.Bool("standby", false, "Put the connections in standby: the old system goes on refreshing")
	flags.Bool("dry-run", false, "Store nothing; say what would happen")
	flags.Bool("verbose", false, "Print a line for each row")
	flags.Int("parallel", 4, "Number of batches to send at a time")
	flags.Duration("min-lifetime", 0, "Refuse rows whose access token expires sooner")
	flags.String("rows-to", "", "Write the rows to this file as the broker would get them, and send nothing")
	flags.String("results", "", "File for refused rows (default: beside the file)")
	flags.String("config", "", "Configuration file, to compare OAuth clients with those that the file names")
	flags.String("adapter", "", "Name of the config adapter for --config")
	flags.String("identity", "", "File with the age identity that decrypts the file")
	flags.String("passphrase-file", "", "File with the passphrase that decrypts the file")
	register(caddycmd.Command{
		Name: "import",
		Usage: client.Usage + " [--format <format>] [--map <column>=<field>] [--connector [<value>=]<unified_api>/<service_id>] " +
			"[--consumer <template>] [--timezone <zone>] [--standby] [--dry-run | --rows-to <file>] [--verbose] [--parallel <n>] [--min-lifetime <duration>] [--results <file>] " +
			"[--config <path> [--adapter <name>]] [--identity <file> | --passphrase-file <file>] <file>|-",
		Short: "Imports connections from a file into a running broker",
		Long: `
Imports connections from a file, or from standard input, into a running broker.
Rows are JSON, one object a line, or CSV with a header. Formats:

` + formats() + `
Try it with --dry-run first: it stores nothing, and says what would happen and which
rows cannot be imported; --verbose prints a line for each. With --standby the broker refreshes nothing until
` + "`token-broker activate`" + `, so that the old system can go on doing that.

An import can be repeated safely. Interrupted, it goes on where it was when the same
command runs again. Rows that are refused go to a file (--results) with their secrets.
When the import has finished, mend them there, and import that file with the same options.
The file of an earlier import is kept, with a number behind its name.

The API key is read from TOKEN_BROKER_API_KEY or --key-file, and the key of a dump of
Nango's database from NANGO_ENCRYPTION_KEY. docs/migrating.md is the guide.`,
		Flags: flags,
	}, func(ctx context.Context, fl caddycmd.Flags) error {
		c := importCommand{
			zone: fl.String("timezone"), mappings: mappings, connectors: connectors,
			config: fl.String("config"), adapter: fl.String("adapter"),
			options: importing.Options{
				Target: fl.String("to"), Application: fl.String("app"), Standby: fl.Bool("standby"), DryRun: fl.Bool("dry-run"), Verbose: fl.Bool("verbose"),
				Parallel: fl.Int("parallel"), Results: fl.String("results"), RowsFile: fl.String("rows-to"),
				Keys: sealed.Keys{IdentityFile: fl.String("identity"), PassphraseFile: fl.String("passphrase-file")},
				Convert: transfer.Options{
					Format: fl.String("format"), Consumer: fl.String("consumer"),
					EncryptionKey: secret.New(os.Getenv("NANGO_ENCRYPTION_KEY")),
				},
				Check: transfer.Check{MinLifetime: fl.Duration("min-lifetime")},
				Input: os.Stdin, Out: os.Stdout, Err: os.Stderr,
			},
		}
		if fd := int(os.Stderr.Fd()); term.IsTerminal(fd) {
			c.options.Columns = func() int {
				width, _, err := term.GetSize(fd)
				if err != nil || width <= 0 {
					return 80
				}
				return width
			}
		}
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(50) // memory stays small, however large the file is
		}
		// The second interrupt ends the process at once.
		defer context.AfterFunc(ctx, func() { signal.Reset(interrupts...) })()
		var broker *client.Client
		if c.options.RowsFile == "" {
			var err error
			if broker, err = client.FromFlags(fl.String); err != nil {
				return err
			}
		}
		return c.run(ctx, broker, fl.Args())
	})
}

// formats lists the formats, one per line.
func formats() string {
	var b strings.Builder
	for _, f := range transfer.Formats() {
		fmt.Fprintf(&b, "  %-13s %s\n", f.Name, f.Source)
	}
	return b.String()
}

// An importCommand is one run of `token-broker import`.
type importCommand struct {
	zone                 string
	mappings, connectors []string
	config, adapter      string
	options              importing.Options
}

// run imports the file that args name. The broker is nil if rows are only converted.
func (c *importCommand) run(ctx context.Context, broker *client.Client, args []string) error {
	o := &c.options
	if len(args) != 1 {
		return fmt.Errorf("import needs one file, or - for standard input; got %d", len(args))
	}
	if o.Parallel < 1 {
		return errors.New("--parallel must be 1 or more")
	}
	o.Path = args[0]
	if err := c.convert(&o.Convert); err != nil {
		return err
	}
	if c.config != "" {
		if err := c.clients(&o.Check, o.Err); err != nil {
			return err
		}
	}
	if broker != nil {
		if o.Standby {
			broker = broker.With("X-Token-Broker-Standby", "true")
		}
		if o.DryRun {
			broker = broker.With("X-Token-Broker-Dry-Run", "true")
		}
		o.Do = broker.Do
	}
	return importing.Run(ctx, *o)
}

// convert parses the flags that describe rows.
func (c *importCommand) convert(o *transfer.Options) error {
	zone, err := time.LoadLocation(c.zone)
	if err != nil {
		return fmt.Errorf("--timezone %s is unknown: write it like Europe/Berlin", c.zone)
	}
	o.Zone = zone
	o.Map = make(map[string]string)
	for _, s := range c.mappings {
		column, field, err := transfer.ParseMapping(s)
		if err != nil {
			return fmt.Errorf("--map %w", err)
		}
		o.Map[column] = field
	}
	o.Connectors = make(map[string]connector.ID)
	for _, s := range c.connectors {
		value, id, err := transfer.ParseConnector(s)
		if err != nil {
			return fmt.Errorf("--connector %w", err)
		}
		o.Connectors[value] = id
	}
	return nil
}

// clients sets the OAuth clients of the connectors that the configuration has. A client whose
// placeholder has no value here is left out, with a note.
func (c *importCommand) clients(check *transfer.Check, notes io.Writer) error {
	app, err := loadApp(c.config, c.adapter)
	if err != nil {
		return err
	}
	check.ClientIDs = make(map[connector.ID]string)
	for name, block := range app.Connectors {
		id, err := connector.ParseID(name)
		if err != nil {
			return fmt.Errorf("connector %w", err)
		}
		if block == nil || block.ClientID == "" {
			check.ClientIDs[id] = ""
			continue
		}
		client, err := placeholder.Resolve("connector "+name+": client_id", block.ClientID)
		if err != nil {
			fmt.Fprintf(notes, "Warning: %v. OAuth clients of %s are not compared.\n", err, name)
			continue
		}
		check.ClientIDs[id] = client
	}
	return nil
}
