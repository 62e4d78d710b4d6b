package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"filippo.io/age"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/export"
	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/sealed"
)

func init() {
	flags := flag.NewFlagSet("export", flag.ExitOnError)
	flags.String("config", "", "Configuration file that names the store")
	flags.String("adapter", "", "Name of the config adapter for --config")
	flags.String("app", "", "Application whose connections are exported; default: all")
	flags.String("connector", "", "Connector whose connections are exported, <unified_api>/<service_id>; default: all")
	flags.String("recipient", "", "Public key to encrypt for, age1...")
	flags.String("passphrase-file", "", "File with the passphrase to encrypt with")
	flags.Bool("plaintext", false, "Do not encrypt the file")
	flags.Bool("no-standby", false, "Leave the connections active; the file is out of date with the next refresh")
	flags.String("format", "canonical", "canonical, or nango for the bodies of Nango's imports")
	flags.String("out", "", "File to create")
	flags.Bool("force", false, "Replace the file --out")
	register(caddycmd.Command{
		Name: "export",
		Usage: "--config <path> [--adapter <name>] [--app <id>] [--connector <unified_api>/<service_id>] " +
			"(--recipient <age1...> | --passphrase-file <file> | --plaintext) [--no-standby] [--format canonical|nango] --out <file> [--force]",
		Short: "Writes connections with their secrets to a file",
		Long: `
Writes the connections in the store that the configuration names to a file, one
JSON object a line, as import takes them. The file has all their secrets. It is
encrypted with age (age-encryption.org): --recipient names the public key of the
reader, --passphrase-file a file with a passphrase. --plaintext is the other
choice.

Every connection is put into standby first, and a refresh in progress is waited
for. So the file stays true until the connections are activated. --no-standby
leaves them active.

It reads the store itself, so it needs the access that the server has: run it as
the user of the server. An embedded store that a running server has open is read
through that server. If it is broken off, there is no file, and the connections
that are in standby stay there: export again, or activate them.`,
		Flags: flags,
	}, func(ctx context.Context, fl caddycmd.Flags) error {
		c := exportCommand{
			config: fl.String("config"), adapter: fl.String("adapter"), app: fl.String("app"), connector: fl.String("connector"),
			recipient: fl.String("recipient"), passphraseFile: fl.String("passphrase-file"), plaintext: fl.Bool("plaintext"),
			noStandby: fl.Bool("no-standby"), format: fl.String("format"), file: fl.String("out"), force: fl.Bool("force"),
			messages: os.Stderr,
		}
		if err := refuseEmpty(fl.Changed, fl.String, "app", "connector"); err != nil {
			return err
		}
		return c.run(ctx, fl.Args())
	})
}

// An exportCommand is one run of `token-broker export`.
type exportCommand struct {
	config, adapter           string
	app, connector            string // empty: all
	recipient, passphraseFile string
	plaintext                 bool
	noStandby                 bool
	format                    string
	file                      string
	force                     bool

	messages io.Writer
	skipped  int // connections that the format cannot express
}

func (c *exportCommand) run(ctx context.Context, args []string) (err error) {
	selection, err := c.check(args)
	if err != nil {
		return err
	}
	recipients, err := c.recipients()
	if err != nil {
		return err
	}
	file, err := sealed.Create(c.file, c.force, recipients...)
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	store, err := openConfigured(ctx, c.config, c.adapter, false)
	if err != nil {
		return errors.Join(err, file.Discard())
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	r, err := export.Run(ctx, export.Config{Store: store.Store, Selection: selection, KeepActive: c.noStandby}, c.writer(file))
	if err == nil && r.Exported == c.skipped {
		err = errors.New("there is no connection to export")
		if selected := selectionText(c.app, c.connector, ""); selected != "" && c.skipped == 0 {
			err = fmt.Errorf("there is no connection %s", selected)
		}
	}
	if err != nil {
		return errors.Join(c.explain(err, r), file.Discard())
	}
	if err := file.Commit(); err != nil {
		return c.explain(err, r)
	}
	c.summarise(store, r)
	return nil
}

// check checks the flags.
func (c *exportCommand) check(args []string) (s export.Selection, err error) {
	s.Application = c.app
	switch {
	case len(args) > 0:
		return s, fmt.Errorf("export takes no words; got %s", args[0])
	case c.config == "":
		return s, errors.New("export needs --config, the configuration that names the store")
	case c.file == "":
		return s, errors.New("export needs --out, the file to create")
	case c.format != "canonical" && c.format != "nango":
		return s, fmt.Errorf("--format: canonical and nango are known; got %s", c.format)
	case c.format == "nango" && c.app == "":
		return s, errors.New("--format nango needs --app: the bodies do not name the application")
	case c.connector != "":
		s.Connector, err = connector.ParseID(c.connector)
	}
	return s, err
}

// recipients returns whom the file is encrypted for, nil for --plaintext.
func (c *exportCommand) recipients() ([]age.Recipient, error) {
	choices := 0
	for _, chosen := range []bool{c.recipient != "", c.passphraseFile != "", c.plaintext} {
		if chosen {
			choices++
		}
	}
	if choices != 1 {
		return nil, errors.New("the file will have the secrets of all connections: choose one of --recipient <age1...>, " +
			"to encrypt it for a key pair; --passphrase-file <file>, to encrypt it with a passphrase; and --plaintext")
	}
	if c.plaintext {
		return nil, nil
	}
	read, from, flag := sealed.ParseRecipient, c.recipient, "--recipient"
	if c.passphraseFile != "" {
		read, from, flag = sealed.ReadPassphrase, c.passphraseFile, "--passphrase-file"
	}
	recipient, err := read(from)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return []age.Recipient{recipient}, nil
}

// writer returns the function that writes rows in the format.
func (c *exportCommand) writer(file io.Writer) func(*transfer.Row) error {
	if c.format == "canonical" {
		return transfer.NewWriter(file).Write
	}
	write := export.NewNangoWriter(file).Write
	return func(row *transfer.Row) error {
		err := write(row)
		if errors.Is(err, export.ErrNotInNango) {
			c.skipped++
			fmt.Fprintln(c.messages, "left out:", err)
			return nil
		}
		return err
	}
}

// explain adds what an export that failed has left behind.
func (c *exportCommand) explain(err error, r *export.Report) error {
	if c.noStandby || r.Standby == 0 {
		return fmt.Errorf("nothing was exported: %w", err)
	}
	return fmt.Errorf("nothing was exported, and %d connections were put into standby; export again, or activate them: %w", r.Standby, err)
}

// summarise reports an export.
func (c *exportCommand) summarise(store *operatorStore, r *export.Report) {
	fmt.Fprintf(c.messages, "exported %d connections from %s to %s", r.Exported-c.skipped, store.storage, c.file)
	if c.noStandby {
		fmt.Fprintln(c.messages, "; they stay active, so the file is out of date with the next refresh")
	} else {
		fmt.Fprintf(c.messages, "; all are in standby, %d of them were put there now\n", r.Standby)
	}
	for _, note := range []struct {
		n    int
		text string
	}{
		{c.skipped, "were left out: the format cannot express them"},
		{r.Disabled, "are disabled, which an import cannot express: it would enable them"},
		{r.Refused, "have credentials that the token endpoint has refused"},
		{r.Empty, "have neither credentials nor settings"},
		{r.Unknown, "may have a refresh token that is spent: a process died during their refresh"},
	} {
		if note.n > 0 {
			fmt.Fprintf(c.messages, "  %d %s\n", note.n, note.text)
		}
	}
}
