package importing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

const importPath = "/vault/connections/import"

// Headers that apply to every row of a batch.
const (
	headerStandby = "X-Token-Broker-Standby"
	headerDryRun  = "X-Token-Broker-Dry-Run"
)

// How long to wait before a request is repeated, unless the broker says, and for how long a
// broker that is out of reach is tried.
const (
	minWait = 500 * time.Millisecond
	maxWait = 30 * time.Second
	giveUp  = 10 * time.Minute
	grace   = 15 * time.Second // for requests in progress when the import is interrupted
)

// A sender sends batches.
type sender struct {
	post   Post
	target string
	header http.Header
}

func newSender(o *Options) *sender {
	s := &sender{post: o.Post, target: o.Target, header: make(http.Header)}
	if o.Standby {
		s.header.Set(headerStandby, "true")
	}
	if o.DryRun {
		s.header.Set(headerDryRun, "true")
	}
	return s
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
		later, wait, err := s.once(ctx, items)
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
		if !sleep(ctx, max(wait, backoff(attempt))) {
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

// retryAfter returns how long a response asks to wait, 0 if it does not (RFC 9110 section
// 10.2.3). The broker sends seconds.
func retryAfter(header http.Header) time.Duration {
	seconds, err := strconv.ParseUint(header.Get("Retry-After"), 10, 16)
	if err != nil {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, giveUp)
}

// sleep reports whether ctx lasted as long.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
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

// once sends the rows once. It returns those to send again, and how long the broker wants to
// be left alone.
func (s *sender) once(ctx context.Context, items []*item) (later []*item, wait time.Duration, err error) {
	// What is sent is finished after an interrupt, so that its outcome is known.
	request, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })()
	res, err := s.post(request, importPath, s.header, body(items))
	if err != nil { // whether it arrived is unknown; an import can be repeated
		return items, 0, nil
	}
	switch status := res.Status; {
	case status == http.StatusOK:
		later, err := s.settle(items, res.Body)
		return later, retryAfter(res.Header), err
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return nil, 0, fmt.Errorf("%s refuses the application or its API key (%d): %s", s.target, status, explain(res.Body))
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed:
		return nil, 0, fmt.Errorf("%s has no %s (%d): check --to, and that the broker is of this version", s.target, importPath, status)
	case status == http.StatusTooManyRequests, status >= 500, status == http.StatusRequestTimeout:
		return items, retryAfter(res.Header), nil
	case len(items) == 1:
		items[0].refuse(reasonOf(res.Status, res.Body))
		return nil, 0, nil
	default: // too large, or refused because of one row
		half := len(items) / 2
		if err := s.send(ctx, items[:half]); err != nil {
			return nil, 0, err
		}
		return nil, 0, s.send(ctx, items[half:])
	}
}

// body returns the request body of a batch.
func body(items []*item) []byte {
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

// A rowAnswer is what the broker says of one row.
type rowAnswer struct {
	Row     int             `json:"row"`
	Status  int             `json:"status_code"`
	Result  outcome         `json:"result"`
	Refresh string          `json:"refresh"`
	Warning string          `json:"warning"`
	Error   json.RawMessage `json:"error"`
}

// settle notes the outcome of each row, and returns the rows that are put off.
func (s *sender) settle(items []*item, text []byte) (later []*item, err error) {
	var answer struct {
		Data []rowAnswer `json:"data"`
	}
	if err := json.Unmarshal(text, &answer); err != nil || len(answer.Data) != len(items) {
		return nil, fmt.Errorf("%s does not answer as a token broker does: check --to", s.target)
	}
	for i, a := range answer.Data {
		it := items[i]
		switch {
		case a.Row != i:
			return nil, fmt.Errorf("%s answers for row %d in place of %d of a batch", s.target, a.Row, i)
		case a.Status == http.StatusOK && (a.Result == outcomeCreated || a.Result == outcomeUpdated || a.Result == outcomeKept):
			it.outcome, it.warning, it.queued = a.Result, a.Warning, a.Refresh == "queued"
			it.reason, it.text = "", ""
		case a.Status == http.StatusServiceUnavailable, a.Status == http.StatusTooManyRequests:
			it.reason, it.text = reasonOf(a.Status, a.Error)
			later = append(later, it)
		default:
			it.refuse(reasonOf(a.Status, a.Error))
		}
	}
	return later, nil
}

// reasonOf returns why the broker refuses a row: for counting, and in full.
func reasonOf(status int, text []byte) (reason, full string) {
	full = explain(text)
	return fmt.Sprintf("%d %s", status, full), full
}

// explain returns the text of an error response.
func explain(text []byte) string {
	var e struct {
		TypeName string `json:"type_name"`
		Message  string `json:"message"`
	}
	if json.Unmarshal(text, &e) != nil || e.Message == "" {
		return "no reason given"
	}
	const most = 300
	message := e.Message
	if len(message) > most {
		message = message[:most] + "..."
	}
	if e.TypeName == "" {
		return message
	}
	return e.TypeName + ": " + message
}
