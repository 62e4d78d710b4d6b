// Command load puts the built token broker under load, with real sockets on one machine, and
// prints what it did:
//
//	load overload   a Vault that serves fewer requests than the broker would like
//	load soak       many connections with short tokens, for minutes
//	load scale      200,000 connections in each store
//	load import     a file of ten million rows through the command `import`
//
// The third party and the callers are in this process, the broker and Vault are processes of
// their own. It exits with 1 if a bound that it states was missed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest/vaulttest"
)

// options are the flags that all commands have.
type options struct {
	binary string
	dir    string
	keep   bool
}

func (o *options) register(flags *flag.FlagSet) {
	flags.StringVar(&o.binary, "binary", "", "the token-broker to start")
	flags.StringVar(&o.dir, "dir", "", "where to create the directory for all files; default: /dev/shm if it exists, else the system's")
	flags.BoolVar(&o.keep, "keep", false, "keep the directory, with the broker's log")
}

// commands are the programs, by the word that starts them.
var commands = map[string]func(ctx context.Context, arguments []string) error{
	"overload": overloadCommand,
	"soak":     soakCommand,
	"scale":    scaleCommand,
	"import":   importCommand,
	burnWord:   burn,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: load overload|soak|scale|import [flags]")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := commands[os.Args[1]](ctx, os.Args[2:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

// parse parses flags and completes the options.
func (o *options) parse(flags *flag.FlagSet, arguments []string) (err error) {
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.binary == "" {
		return errors.New("-binary is missing: make sets it")
	}
	o.binary, err = filepath.Abs(o.binary)
	fmt.Printf("%s, %s/%s, %d CPUs\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	return err
}

// inDir calls f with a new directory, in memory if possible.
func (o *options) inDir(f func(dir string) error) (err error) {
	parent := o.dir
	if info, err := os.Stat("/dev/shm"); parent == "" && err == nil && info.IsDir() {
		parent = "/dev/shm"
	}
	dir, err := os.MkdirTemp(parent, "token-broker-load-")
	if err != nil {
		return err
	}
	if o.keep {
		fmt.Println("files:", dir)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	return f(dir)
}

// startVault starts a Vault with its files in dir.
func startVault(dir, storage string) (*vaulttest.Server, error) {
	path := filepath.Join(dir, "vault")
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	return vaulttest.Run(path, vaulttest.WithStorage(vaulttest.Storage(storage)))
}

// A verdict collects the bounds that were missed.
type verdict struct{ missed []string }

// require prints a line with the result, and notes it if ok is false.
func (v *verdict) require(ok bool, format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	fmt.Println(line)
	if !ok {
		v.missed = append(v.missed, line)
	}
}

func (v *verdict) err() error {
	if len(v.missed) == 0 {
		return nil
	}
	return fmt.Errorf("bounds missed:\n  %s", strings.Join(v.missed, "\n  "))
}
