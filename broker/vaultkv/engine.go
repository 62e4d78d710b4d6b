package vaultkv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// An engine knows whether the mount is a KV version 2 engine. Version 1 takes a
// compare-and-set write for a plain one, answers 204 and has then stored it.
type engine struct {
	mu       sync.Mutex
	verified bool   // guarded by mu
	checking *check // guarded by mu; nil if none is under way
	reported string // guarded by mu; what the log was told last
}

// errUnfit means that Vault has answered, and no store can be there.
var errUnfit = errors.New("the mount cannot be used")

// A check is shared by all who wait for it.
type check struct {
	done chan struct{}
	err  error // read after done
}

func (e *engine) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.verified = false
}

// Check asks Vault whether it is there, unsealed, takes the token and has a KV
// version 2 engine at the mount. Every other operation does so first, until it
// succeeded once.
func (s *Store) Check(ctx context.Context) error { return s.await(ctx, s.startCheck(ctx, true)) }

// ready returns nil once the mount is known to be a version 2 engine.
func (s *Store) ready(ctx context.Context) error { return s.await(ctx, s.startCheck(ctx, false)) }

func (s *Store) await(ctx context.Context, c *check) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", record.ErrStoreUnavailable, err)
	}
	if c == nil {
		return nil
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("%w: waiting for Vault: %w", record.ErrStoreUnavailable, ctx.Err())
	}
}

// startCheck returns the check to wait for, nil if there is no need.
func (s *Store) startCheck(ctx context.Context, always bool) *check {
	e := &s.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.verified && !always {
		return nil
	}
	if e.checking == nil {
		e.checking = &check{done: make(chan struct{})}
		// That one of those who wait goes away must not fail the others. It ends by itself.
		go s.runCheck(context.WithoutCancel(ctx), e.checking)
	}
	return e.checking
}

func (s *Store) runCheck(ctx context.Context, c *check) {
	timed, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	unfit := ""
	c.err = s.checkMount(timed)
	if errors.Is(c.err, errUnfit) {
		unfit = c.err.Error()
	}
	e := &s.engine
	e.mu.Lock()
	news := unfit != "" && unfit != e.reported
	// Vault out of reach says nothing new about the mount.
	e.verified = c.err == nil || e.verified && unfit == ""
	e.checking, e.reported = nil, unfit
	e.mu.Unlock()
	close(c.done)
	if news {
		s.logger.ErrorContext(ctx, "the store cannot be used", "error", unfit)
	}
}

func (s *Store) checkMount(ctx context.Context) error {
	r := request{
		method: http.MethodGet, path: "sys/internal/ui/mounts/" + s.mount,
		capabilities: fmt.Sprintf("something below %s/ (if there is a mount of that name)", s.mount),
	}
	body, err := s.do(ctx, r)
	if err != nil {
		return err
	}
	var answer struct {
		Data struct {
			Type    string            `json:"type"`
			Path    string            `json:"path"`
			Options map[string]string `json:"options"`
		} `json:"data"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Data.Type == "" {
		return s.unreadable(r)
	}
	mount := strings.Trim(answer.Data.Path, "/")
	unfit := func(format string, args ...any) error {
		return fmt.Errorf("%w: %w: %s", record.ErrStoreUnavailable, errUnfit, fmt.Sprintf(format, args...))
	}
	switch {
	case mount != s.mount:
		return unfit("the secrets engine that has the path %s is mounted at %s: set the mount to that and put the rest into the prefix",
			s.mount, mount)
	case answer.Data.Type != "kv" && answer.Data.Type != "generic":
		return unfit("the secrets engine at %s/ is of type %s, not KV version 2: use another mount", mount, answer.Data.Type)
	case answer.Data.Options["version"] != "2":
		return unfit("the secrets engine at %s/ is KV version 1, which has no compare-and-set, and nothing is written there: "+
			"enable version 2 (vault kv enable-versioning %s) or use another mount", mount, mount)
	}
	return nil
}
