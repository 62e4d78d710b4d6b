package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/client"
)

const connectionsHelp = `

It works on all connections of the application --app, of one --connector, or of one
--consumer. It can be stopped and run again: connections that are so already stay as
they are. The exit code is 1 if it could not do it for each of them, or if there are none.

It talks to a running token broker, at --to. The application's API key comes from the
environment variable ` + client.KeyVariable + `, or from the file --key-file.`

func init() {
	registerSwitch(switching{
		verb: "activate", changed: "activated", unchanged: "were active already",
	}, "Lets the token broker refresh connections that are in standby", `
Ends the standby of connections: from then on the token broker refreshes their tokens.
Stop the old system first, or it and the token broker spend each other's refresh
tokens. Connections whose token has expired are refreshed at once, as fast as their
token endpoints allow.`)
	registerSwitch(switching{
		verb: "standby", changed: "put into standby", unchanged: "were in standby already",
	}, "Stops refreshing connections, so that another system can", `
Puts connections into standby: the token broker serves their tokens while they are
valid, and neither refreshes nor revokes anything. It waits for refreshes that are in
progress, so when it ends, another system can go on with what export writes.`)
}

// registerSwitch adds the subcommand of a switching.
func registerSwitch(sw switching, short, long string) {
	flags := flag.NewFlagSet(sw.verb, flag.ExitOnError)
	client.AddFlags(flags)
	flags.String("connector", "", "Only connections to this connector, <unified_api>/<service_id>")
	flags.String("consumer", "", "Only connections of this consumer")
	register(caddycmd.Command{
		Name:  sw.verb,
		Usage: client.Usage + " [--connector <unified_api>/<service_id>] [--consumer <id>]",
		Short: short,
		Long:  long + connectionsHelp,
		Flags: flags,
	}, func(ctx context.Context, fl caddycmd.Flags) error {
		if err := refuseEmpty(fl.Changed, fl.String, "connector", "consumer"); err != nil {
			return err
		}
		run := sw
		run.out, run.pause = os.Stdout, 15*time.Second
		return run.start(ctx, fl.Args(), fl.String)
	})
}

// refuseEmpty returns an error if a flag that selects connections was given without a value, as a
// variable of the shell that is not set does: the command would work on all of them.
func refuseEmpty(isGiven func(flag string) bool, value func(flag string) string, flags ...string) error {
	for _, name := range flags {
		if isGiven(name) && value(name) == "" {
			return fmt.Errorf("--%s is empty: leave it out to select all", name)
		}
	}
	return nil
}

// selectionText says which connections the flags of a command select. A flag that is empty selects
// all.
func selectionText(app, connector, consumer string) string {
	var parts []string
	for _, part := range []struct{ words, value string }{
		{"of the application", app}, {"of the consumer", consumer}, {"to the connector", connector},
	} {
		if part.value != "" {
			parts = append(parts, part.words+" "+part.value)
		}
	}
	return strings.Join(parts, " ")
}

// A switching is one run of `token-broker activate` or `token-broker standby`.
type switching struct {
	verb               string // the last segment of the API's path, too
	changed, unchanged string // words for the report
	selection          string // what the flags select, for an error
	client             *client.Client
	out                io.Writer
	pause              time.Duration // before those that failed are tried again

	done     switched
	reported time.Time // when progress was last reported
}

// A connectionName is how requests and responses name a connection, or those that a request
// selects.
type connectionName struct {
	ConsumerID string `json:"consumer_id,omitempty"`
	UnifiedAPI string `json:"unified_api,omitempty"`
	ServiceID  string `json:"service_id,omitempty"`
}

// switched is what was done, of one response or of the whole run.
type switched struct {
	Changed   int             `json:"changed"`
	Unchanged int             `json:"unchanged"`
	Failed    []switchFailure `json:"failed"`
}

type switchFailure struct {
	connectionName

	Error struct {
		TypeName string `json:"type_name"`
		Message  string `json:"message"`
	} `json:"error"`
}

// start runs with the arguments and the values of the flags.
func (s *switching) start(ctx context.Context, args []string, flag func(name string) string) (err error) {
	if len(args) > 0 {
		return fmt.Errorf("%s takes flags only; got %q", s.verb, args)
	}
	name := connectionName{ConsumerID: flag("consumer")}
	if text := flag("connector"); text != "" {
		id, err := connector.ParseID(text)
		if err != nil {
			return err
		}
		name.UnifiedAPI, name.ServiceID = id.UnifiedAPI, id.ServiceID
	}
	s.selection = selectionText(flag("app"), flag("connector"), flag("consumer"))
	if s.client, err = client.FromFlags(flag); err != nil {
		return err
	}
	return s.run(ctx, name)
}

// maxRounds is how often connections that failed are tried again. Most of these wait for a
// refresh in progress, or for the lease of a process that is gone, which lasts 45 s by default.
const maxRounds = 4

// run switches the connections that name selects.
func (s *switching) run(ctx context.Context, name connectionName) error {
	err := s.switchAll(ctx, name)
	for round := 0; err == nil && len(s.done.Failed) > 0 && round < maxRounds; round++ {
		fmt.Fprintf(s.out, "%d connections could not be %s yet; trying them again\n", len(s.done.Failed), s.changed)
		if err = sleep(ctx, s.pause); err == nil {
			err = s.retry(ctx)
		}
	}
	selected := s.done.Changed + s.done.Unchanged + len(s.done.Failed)
	if selected > 0 {
		s.report()
	}
	switch {
	case ctx.Err() != nil:
		return errors.New("stopped; run it again to go on")
	case err != nil:
		return err
	case selected == 0: // likely a name is mistyped, and another system goes on refreshing
		return fmt.Errorf("nothing was %s: there is no connection %s", s.changed, s.selection)
	case len(s.done.Failed) > 0:
		return fmt.Errorf("%d connections could not be %s; run it again", len(s.done.Failed), s.changed)
	default:
		return nil
	}
}

// maxStuck is how often a page of which everything failed is repeated, before the next one.
const maxStuck = 5

// switchAll switches page by page.
func (s *switching) switchAll(ctx context.Context, name connectionName) error {
	for cursor, stuck := "", 0; ; {
		page, next, err := s.send(ctx, name, cursor)
		if err != nil {
			return err
		}
		if len(page.Failed) > 0 && page.Changed+page.Unchanged == 0 && stuck < maxStuck {
			stuck++ // likely the store is out of reach
			if err := sleep(ctx, s.pause*time.Duration(stuck)/maxStuck); err != nil {
				return err
			}
			continue
		}
		stuck = 0
		s.note(page)
		if next == "" {
			return nil
		}
		cursor = next
		s.showProgress()
	}
}

// retry switches the connections that failed before, one by one.
func (s *switching) retry(ctx context.Context) error {
	failed := s.done.Failed
	s.done.Failed = nil
	for i, f := range failed {
		done, _, err := s.send(ctx, f.connectionName, "")
		if err != nil {
			s.done.Failed = append(s.done.Failed, failed[i:]...)
			return err
		}
		s.note(done)
		if i < len(failed)-1 {
			s.showProgress()
		}
	}
	return nil
}

// send sends one request. It returns what was done, and the cursor of the next page.
func (s *switching) send(ctx context.Context, name connectionName, cursor string) (switched, string, error) {
	body := struct {
		connectionName

		Cursor string `json:"cursor,omitempty"`
	}{name, cursor}
	var answer struct {
		Data switched `json:"data"`
		Meta struct {
			Cursors struct {
				Next string `json:"next"`
			} `json:"cursors"`
		} `json:"meta"`
	}
	err := s.client.Do(ctx, http.MethodPost, "/vault/connections/"+s.verb, body, &answer)
	return answer.Data, answer.Meta.Cursors.Next, err
}

// progressInterval is how often progress is reported.
const progressInterval = 2 * time.Second

// note counts what one request has done.
func (s *switching) note(done switched) {
	s.done.Changed += done.Changed
	s.done.Unchanged += done.Unchanged
	s.done.Failed = append(s.done.Failed, done.Failed...)
}

// showProgress writes the counts now and then. Call it when more follows: the report has the last
// ones.
func (s *switching) showProgress() {
	if now := time.Now(); now.Sub(s.reported) >= progressInterval {
		if !s.reported.IsZero() {
			fmt.Fprintln(s.out, s.counts())
		}
		s.reported = now
	}
}

func (s *switching) counts() string {
	return fmt.Sprintf("%d connections %s, %d %s, %d failed", s.done.Changed, s.changed, s.done.Unchanged, s.unchanged, len(s.done.Failed))
}

// maxListed is how many failures the report lists.
const maxListed = 50

// report writes what the run has done.
func (s *switching) report() {
	for i, f := range s.done.Failed {
		if i == maxListed {
			fmt.Fprintf(s.out, "and %d more\n", len(s.done.Failed)-maxListed)
			break
		}
		fmt.Fprintf(s.out, "failed: %s/%s of %q: %s: %s\n", f.UnifiedAPI, f.ServiceID, f.ConsumerID, f.Error.TypeName, f.Error.Message)
	}
	fmt.Fprintln(s.out, s.counts())
}

// sleep waits for about d, so that several runs do not keep pace.
func sleep(ctx context.Context, d time.Duration) error {
	return client.Sleep(ctx, d-rand.N(d/4+1))
}
