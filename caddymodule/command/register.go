package command

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// interrupts are the signals that ask the process to end.
var interrupts = []os.Signal{os.Interrupt, syscall.SIGTERM}

// A runner does what a subcommand is for. Its context ends when the process is asked to end.
type runner func(context.Context, caddycmd.Flags) error

// register adds a subcommand that does run. The exit code is 1 if run returns an error.
func register(cmd caddycmd.Command, run runner) {
	cmd.Func = run.command
	caddycmd.RegisterCommand(cmd)
}

// A member is a subcommand of a group.
type member struct {
	caddycmd.Command

	run runner
}

// registerGroup adds a subcommand that has subcommands, and does nothing by itself.
func registerGroup(group caddycmd.Command, members ...member) {
	group.CobraFunc = func(cmd *cobra.Command) {
		for _, m := range members {
			sub := &cobra.Command{
				Use: m.Name + " " + m.Usage, Short: m.Short, Long: m.Long,
				RunE: caddycmd.WrapCommandFuncForCobra(m.run.command),
			}
			sub.Flags().AddGoFlagSet(m.Flags)
			cmd.AddCommand(sub)
		}
		cmd.Args = cobra.ArbitraryArgs // or Cobra's error, without the names of the subcommands
		cmd.RunE = caddycmd.WrapCommandFuncForCobra(func(flags caddycmd.Flags) (int, error) {
			names := make([]string, len(members))
			for i, m := range members {
				names[i] = m.Name
			}
			known := strings.Join(names, ", ")
			if word := flags.Arg(0); word != "" {
				return caddy.ExitCodeFailedStartup, fmt.Errorf("%s knows %s; got %s", group.Name, known, word)
			}
			return caddy.ExitCodeFailedStartup, fmt.Errorf("%s needs one of the words %s", group.Name, known)
		})
	}
	caddycmd.RegisterCommand(group)
}

func (run runner) command(flags caddycmd.Flags) (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), interrupts...)
	defer stop()
	if err := run(ctx, flags); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	return caddy.ExitCodeSuccess, nil
}
