package importing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/client"
)

const importPath = "/vault/connections/import"

// How long to wait before rows are sent again, and for how long a broker that does not take
// them is tried.
const (
	minWait = 500 * time.Millisecond
	maxWait = 30 * time.Second
	giveUp  = 10 * time.Minute
	grace   = 15 * time.Second // for requests in progress when the import is interrupted
)

// A sender sends batches.
type sender struct {
	do      func(ctx context.Context, method, path string, body, into any) error
	target  string
	reached atomic.Bool // the broker has answered
}

// errStopped means that an interrupt has ended the import before the batch was done.
var errStopped = errors.New("interrupted")

// send sends the rows, and repeats what the broker puts off, until the outcome of each is
// known. An error means that it is not, and that no other batch will fare better.
func (s *sender) send(ctx context.Context, items []*item) error {
	begun := time.Now()
	for attempt := 0; len(items) > 0; attempt++ {
		if ctx.Err() != nil {
			return errStopped
		}
		later, err := s.once(ctx, items)
		if err != nil {
			return err
		}
		if len(later) < len(items) {
			attempt = 0 // the broker makes progress
		}
		if items = later; len(items) == 0 {
			return nil
		}
		if time.Since(begun) > giveUp {
			return s.abandon(items)
		}
		if client.Sleep(ctx, backoff(attempt)) != nil {
			return errStopped
		}
	}
	return nil
}

// backoff returns the wait after a number of attempts without progress.
func backoff(attempt int) time.Duration {
	wait := min(minWait<<min(attempt, 10), maxWait)
	return wait/2 + rand.N(wait/2)
}

// abandon ends the attempts for rows that the broker has put off for too long. Rows of which it
// has said so are refused; if it has not answered at all, the import ends.
func (s *sender) abandon(items []*item) error {
	for _, it := range items {
		if it.text == "" {
			return fmt.Errorf("%s has not taken a batch for %s: run the command again to go on", s.target, giveUp)
		}
		it.refuse(it.reason, it.text)
	}
	return nil
}

// once sends the rows once, and returns those to send again.
func (s *sender) once(ctx context.Context, items []*item) (later []*item, err error) {
	// What is sent is finished after an interrupt, so that its outcome is known.
	request, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })()
	var answer batchAnswer
	err = s.do(request, http.MethodPost, importPath, body(items), &answer)
	if err == nil {
		s.reached.Store(true)
		return s.settle(items, answer.Data)
	}
	refusal, ok := errors.AsType[*client.Error](err)
	if !ok {
		if !s.reached.Load() && ctx.Err() == nil {
			return nil, fmt.Errorf("%s cannot be reached: %w", s.target, err)
		}
		return items, nil // whether it arrived is unknown; an import can be repeated
	}
	s.reached.Store(true)
	switch status := refusal.Status; {
	case status < http.StatusBadRequest:
		return nil, fmt.Errorf("%s: %w", s.target, err)
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return nil, fmt.Errorf("%s refuses the application or its API key: %w", s.target, err)
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed:
		return nil, fmt.Errorf("%s has no %s: check --to, and that the broker is of this version: %w", s.target, importPath, err)
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status >= 500:
		return items, nil
	case len(items) == 1:
		items[0].refuse(reasonOf(status, refusal.TypeName, refusal.Message))
		return nil, nil
	default: // too large, or refused because of one row
		half := len(items) / 2
		if err := s.send(ctx, items[:half]); err != nil {
			return nil, err
		}
		return nil, s.send(ctx, items[half:])
	}
}

// body returns the request body of a batch.
func body(items []*item) json.RawMessage {
	size := 32
	for _, it := range items {
		size += len(it.body) + 1
	}
	b := append(make([]byte, 0, size), `{"connections":[`...)
	for i, it := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, it.body...)
	}
	return append(b, "]}"...)
}

// A batchAnswer is the broker's response to a batch.
type batchAnswer struct {
	Data []rowAnswer `json:"data"`
}

// A rowAnswer is what the broker says of one row.
type rowAnswer struct {
	Row     int     `json:"row"`
	Status  int     `json:"status_code"`
	Result  outcome `json:"result"`
	Refresh string  `json:"refresh"`
	Warning string  `json:"warning"`
	Error   struct {
		TypeName string `json:"type_name"`
		Message  string `json:"message"`
	} `json:"error"`
}

// settle notes the outcome of each row, and returns the rows that are put off.
func (s *sender) settle(items []*item, answers []rowAnswer) (later []*item, err error) {
	if len(answers) != len(items) {
		return nil, fmt.Errorf("%s answers for %d of %d rows: check --to", s.target, len(answers), len(items))
	}
	for i, a := range answers {
		it := items[i]
		switch {
		case a.Row != i:
			return nil, fmt.Errorf("%s answers for row %d in place of %d of a batch", s.target, a.Row, i)
		case a.Status == http.StatusOK && (a.Result == outcomeCreated || a.Result == outcomeUpdated || a.Result == outcomeKept):
			it.outcome, it.warning, it.queued = a.Result, a.Warning, a.Refresh == "queued"
			it.reason, it.text = "", ""
		case a.Status == http.StatusServiceUnavailable, a.Status == http.StatusTooManyRequests:
			it.reason, it.text = reasonOf(a.Status, a.Error.TypeName, a.Error.Message)
			later = append(later, it)
		default:
			it.refuse(reasonOf(a.Status, a.Error.TypeName, a.Error.Message))
		}
	}
	return later, nil
}

// rowPath matches how the broker names a row of a batch. It would make each message another one.
var rowPath = regexp.MustCompile(`connections\[\d+\]\.?`)

// reasonOf returns why the broker refuses a row: for counting, and in full.
func reasonOf(status int, typeName, message string) (reason, text string) {
	const most = 300
	message = rowPath.ReplaceAllString(message, "")
	if len(message) > most {
		message = strings.ToValidUTF8(message[:most], "") + "..."
	}
	text = strings.TrimPrefix(typeName+": "+message, ": ")
	return fmt.Sprintf("%d %s", status, text), text
}
