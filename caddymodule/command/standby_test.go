package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/client"
)

// A switchServer answers each request to switch connections with the next of its answers.
type switchServer struct {
	answers []string

	mu     sync.Mutex
	bodies []string // guarded by mu; of the requests
}

// ServeHTTP implements [http.Handler].
func (s *switchServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body bytes.Buffer
	_ = json.NewEncoder(&body).Encode(r.URL.Path)
	_, _ = body.ReadFrom(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bodies = append(s.bodies, body.String())
	answer := s.answers[min(len(s.bodies), len(s.answers))-1]
	_, _ = fmt.Fprint(w, answer)
}

// pageOf is an answer.
func pageOf(changed int, next string, failed ...string) string {
	failures := make([]string, len(failed))
	for i, consumer := range failed {
		failures[i] = fmt.Sprintf(`{"consumer_id": %q, "unified_api": "crm", "service_id": "acme", "error": {"type_name": "ServiceUnavailableError", "message": "later"}}`, consumer)
	}
	if next != "null" {
		next = `"` + next + `"`
	}
	return fmt.Sprintf(`{"data": {"changed": %d, "unchanged": 1, "failed": [%s]}, "meta": {"cursors": {"next": %s}}}`, changed, strings.Join(failures, ","), next)
}

// run runs `token-broker activate` against the server.
func (s *switchServer) run(ctx context.Context, t *testing.T, name connectionName) (string, error) {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	c, err := client.New(server.URL, "my-app", secret.New("key"), false)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	sw := switching{
		verb: "activate", changed: "activated", unchanged: "were active already", client: c, out: &out, pause: 1,
		selection: selectionText("my-app", "crm/nope", ""),
	}
	err = sw.run(ctx, name)
	return out.String(), err
}

func TestActivateGoesThroughAllPages(t *testing.T) {
	t.Parallel()
	s := &switchServer{answers: []string{pageOf(200, "c1"), pageOf(200, "c2"), pageOf(7, "null")}}
	out, err := s.run(t.Context(), t, connectionName{UnifiedAPI: "crm", ServiceID: "acme"})
	if want := "407 connections activated, 3 were active already, 0 failed\n"; err != nil || out != want {
		t.Errorf("got %q, %v, want %q", out, err, want)
	}
	want := `"/vault/connections/activate"
{"unified_api":"crm","service_id":"acme"},"/vault/connections/activate"
{"unified_api":"crm","service_id":"acme","cursor":"c1"},"/vault/connections/activate"
{"unified_api":"crm","service_id":"acme","cursor":"c2"}`
	if got := strings.Join(s.bodies, ","); got != want {
		t.Errorf("got requests %s, want %s", got, want)
	}
}

func TestActivateTriesConnectionsThatFailedAgain(t *testing.T) {
	t.Parallel()
	s := &switchServer{answers: []string{pageOf(1, "null", "jane", "ann"), pageOf(1, "null"), pageOf(0, "null", "ann"), pageOf(1, "null")}}
	out, err := s.run(t.Context(), t, connectionName{})
	if err != nil || !strings.HasSuffix(out, "3 connections activated, 4 were active already, 0 failed\n") {
		t.Errorf("got %q, %v", out, err)
	}
	if got := strings.Join(s.bodies[1:3], ","); !strings.Contains(got, `{"consumer_id":"jane","unified_api":"crm","service_id":"acme"}`) {
		t.Errorf("got requests %s, want them for one connection each", got)
	}
}

func TestActivateReportsWhatFailed(t *testing.T) {
	t.Parallel()
	s := &switchServer{answers: []string{pageOf(1, "null", "jane")}}
	out, err := s.run(t.Context(), t, connectionName{})
	if err == nil || !strings.Contains(err.Error(), "1 connections could not be activated") || !strings.Contains(out, `failed: crm/acme of "jane": ServiceUnavailableError: later`) {
		t.Errorf("got %q, %v", out, err)
	}
}

// A page of which everything fails says that the store is out of reach, not much about the
// connections.
func TestActivateRepeatsAPageThatFails(t *testing.T) {
	t.Parallel()
	all := strings.Replace(pageOf(0, "c1", "jane"), `"unchanged": 1`, `"unchanged": 0`, 1)
	s := &switchServer{answers: []string{all, all, pageOf(1, "c1"), pageOf(1, "null")}}
	out, err := s.run(t.Context(), t, connectionName{})
	if err != nil || out != "2 connections activated, 2 were active already, 0 failed\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestActivateCanBeStopped(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	s := &switchServer{answers: []string{pageOf(200, "c1")}}
	done := make(chan error, 1)
	go func() {
		_, err := s.run(ctx, t, connectionName{})
		done <- err
	}()
	cancel()
	if err := <-done; err == nil || err.Error() != "stopped; run it again to go on" {
		t.Errorf("got %v", err)
	}
}

// A connector that is mistyped would look as if it had been cut over.
func TestActivateOfNothingIsAnError(t *testing.T) {
	t.Parallel()
	none := func(next string) string {
		return strings.Replace(pageOf(0, next), `"unchanged": 1`, `"unchanged": 0`, 1)
	}
	s := &switchServer{answers: []string{none("c1"), none("null")}}
	out, err := s.run(t.Context(), t, connectionName{UnifiedAPI: "crm", ServiceID: "nope"})
	want := `nothing was activated: there is no connection of the application my-app to the connector crm/nope`
	if err == nil || err.Error() != want || out != "" {
		t.Errorf("got %q, %v, want %s", out, err, want)
	}
	if len(s.bodies) != 2 {
		t.Errorf("got %d requests, want both pages", len(s.bodies))
	}
}

func TestActivateThatIsRefusedOnlySaysSo(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	defer server.Close()
	c, err := client.New(server.URL, "my-app", secret.New("key"), false)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = (&switching{verb: "activate", changed: "activated", client: c, out: &out}).run(t.Context(), connectionName{})
	if refused, ok := errors.AsType[*client.Error](err); !ok || refused.Status != http.StatusUnauthorized || out.Len() > 0 {
		t.Errorf("got %v, %q", err, &out)
	}
}

func TestProgressIsShownOnlyBetweenPages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s := &switching{changed: "activated", unchanged: "were active already", out: &out}
		for range 3 {
			s.note(switched{Changed: 200})
			s.showProgress()
			time.Sleep(progressInterval)
		}
		s.note(switched{Changed: 7})
		s.report()
		want := "400 connections activated, 0 were active already, 0 failed\n" +
			"600 connections activated, 0 were active already, 0 failed\n" +
			"607 connections activated, 0 were active already, 0 failed\n"
		if out.String() != want {
			t.Errorf("got %q, want %q", &out, want)
		}
	})
}

func TestActivateChecksItsFlags(t *testing.T) {
	t.Setenv(client.KeyVariable, "canary-key")
	for _, test := range []struct {
		args  []string
		flags map[string]string
		want  string
	}{
		{nil, map[string]string{"app": "my-app", "connector": "acme"}, "a connector is named <unified_api>/<service_id>"},
		{[]string{"now"}, map[string]string{"app": "my-app"}, "takes flags only"},
		{nil, map[string]string{"to": "https://localhost"}, "--app is missing"},
		{nil, map[string]string{"app": "my-app", "to": "http://broker.example.com"}, "not encrypted"},
	} {
		sw := switching{verb: "activate"}
		err := sw.start(t.Context(), test.args, func(name string) string { return test.flags[name] })
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%v: got %v, want %q", test.flags, err, test.want)
		}
	}
}

func TestAnEmptySelectionIsNotOneOfAll(t *testing.T) {
	t.Parallel()
	flags := map[string]string{"connector": "crm/acme", "consumer": ""}
	isGiven := func(name string) bool { _, ok := flags[name]; return ok }
	value := func(name string) string { return flags[name] }
	if err := refuseEmpty(isGiven, value, "connector", "consumer"); err == nil || !strings.Contains(err.Error(), "--consumer is empty") {
		t.Errorf("got %v", err)
	}
	if err := refuseEmpty(isGiven, value, "connector", "app"); err != nil {
		t.Error(err)
	}
}

func TestActivateAndStandbyAreSubcommands(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"activate", "standby"} {
		if cmd, ok := caddycmd.Commands()[name]; !ok || cmd.Flags.Lookup("key-file") == nil || cmd.Flags.Lookup("consumer") == nil {
			t.Errorf("the subcommand %s is not registered with its flags", name)
		}
	}
}
