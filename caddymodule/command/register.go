package command

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// interrupts are the signals that ask the process to end.
var interrupts = []os.Signal{os.Interrupt, syscall.SIGTERM}

// register adds a subcommand that does run. The context of run ends when the process is asked to
// end. The exit code is 1 if run returns an error.
func register(cmd caddycmd.Command, run func(context.Context, caddycmd.Flags) error) {
	cmd.Func = func(flags caddycmd.Flags) (int, error) {
		ctx, stop := signal.NotifyContext(context.Background(), interrupts...)
		defer stop()
		if err := run(ctx, flags); err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		return caddy.ExitCodeSuccess, nil
	}
	caddycmd.RegisterCommand(cmd)
}
