package command

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/client"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/sealed"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/verifying"
)

func verifyFlags() *flag.FlagSet {
	flags := flag.NewFlagSet("verify", flag.ExitOnError)
	client.AddFlags(flags)
	flags.String("identity", "", "File with the age identity that decrypts the file")
	flags.String("passphrase-file", "", "File with the passphrase that decrypts the file")
	flags.String("results", "", "File for the rows that are not in the broker as they are in the file")
	flags.Bool("probe", false, "Try each connection with one harmless request of its connector")
	flags.Int("probe-rate", 5, "Number of these requests per second")
	return flags
}

func init() {
	register(caddycmd.Command{
		Name:  "verify",
		Usage: client.Usage + " [--identity <file> | --passphrase-file <file>] [--results <file>] [--probe [--probe-rate <n>]] <file>|-",
		Short: "Compares a file of connections with those of a running broker",
		Long: `
Compares the rows of a file, or of standard input, with the connections of a running
broker, and counts them: same, different, missing; and of the connections that exist,
how many are healthy, parked, or in standby. Rows are JSON, one object a line, as
` + "`token-broker import`" + ` reads them. A file that is encrypted
with age needs --identity or --passphrase-file. The command sends hashes of the tokens with a new
key, never the tokens. A row without tokens is only looked for.

A connection whose token was refreshed since is different: verify in standby, or
before the first refresh. Rows that are not the same go to --results, without tokens.
The exit status is 1 unless all rows are the same.

With --probe it also sends one GET for each connection through the Proxy API, to the
probe_path of its connector if that has one, and counts the responses by class.

The API key is read from TOKEN_BROKER_API_KEY or --key-file.`,
		Flags: verifyFlags(),
	}, func(ctx context.Context, fl caddycmd.Flags) error {
		o := verifying.Options{
			Application: fl.String("app"), Results: fl.String("results"),
			Probe: fl.Bool("probe"), ProbeRate: fl.Int("probe-rate"), Out: os.Stdout,
		}
		return verify(ctx, o, os.Stderr, fl.String, fl.Args())
	})
}

// verify is one run of `token-broker verify`.
func verify(ctx context.Context, o verifying.Options, warnings io.Writer, value func(flag string) string, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("verify needs one file, or - for standard input; got %d", len(args))
	}
	if o.ProbeRate < 1 || o.ProbeRate > 1000 {
		return errors.New("--probe-rate must be between 1 and 1000")
	}
	keys := sealed.Keys{IdentityFile: value("identity"), PassphraseFile: value("passphrase-file")}
	err := keys.Validate()
	if err != nil {
		return err
	}
	if o.Client, err = client.FromFlags(value); err != nil {
		return err
	}
	var in io.Reader = os.Stdin
	if args[0] != "-" {
		file, info, err := sealed.Open(args[0], warnings)
		if err != nil {
			return err
		}
		defer file.Close()
		if isSameFile(info, o.Results) {
			return errors.New("--results must not be the file that is verified")
		}
		in = file
	}
	name := args[0]
	if name == "-" {
		name = "standard input"
	}
	plain, err := keys.Decrypt(bufio.NewReader(in), name)
	if err != nil {
		return err
	}
	o.Rows = transfer.NewReader(plain)
	return verifying.Run(ctx, o)
}

// isSameFile reports whether path names the file.
func isSameFile(file os.FileInfo, path string) bool {
	named, err := os.Stat(path)
	return err == nil && os.SameFile(file, named)
}
