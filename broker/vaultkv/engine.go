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

// An engine records whether the mount is a KV version 2 engine. Version 1 ignores the
// compare-and-set parameter of a write: it stores the record and answers 204.
type engine struct {
	mu       sync.Mutex
	verified bool   // guarded by mu
	checking *check // guarded by mu; the check in progress, or nil
}

// errUnfit means that Vault answered, and that no store can be kept at the mount.
var errUnfit = errors.New("the mount cannot be used")

// A check is shared by all callers that wait for it.
type check struct {
	done chan struct{}
	err  error // valid once done is closed
}

func (e *engine) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.verified = false
}

// Check implements [record.CheckedStore]. It asks whether Vault is reachable and
// unsealed, accepts the token, and has a KV version 2 engine at the mount. Every other
// operation does the same first, until a check has succeeded.
func (s *Store) Check(ctx context.Context) error { return s.await(ctx, s.startCheck(ctx, true)) }

// ready returns nil if the mount is known to be a version 2 engine, and checks it otherwise.
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

// startCheck returns the check to wait for, nil if none is needed.
func (s *Store) startCheck(ctx context.Context, always bool) *check {
	e := &s.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.verified && !always {
		return nil
	}
	if e.checking == nil {
		e.checking = &check{done: make(chan struct{})}
		// A caller that goes away must not fail the others; runCheck has its own timeout.
		go s.runCheck(context.WithoutCancel(ctx), e.checking)
	}
	return e.checking
}

func (s *Store) runCheck(ctx context.Context, c *check) {
	timed, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	c.err = s.checkMount(timed)
	e := &s.engine
	e.mu.Lock()
	// An unreachable Vault says nothing new about the mount.
	e.verified = c.err == nil || e.verified && !errors.Is(c.err, errUnfit)
	e.checking = nil
	e.mu.Unlock()
	close(c.done)
}

func (s *Store) checkMount(ctx context.Context) error {
	r := request{
		method: http.MethodGet, path: "sys/internal/ui/mounts/" + s.mount,
		capabilities: fmt.Sprintf("access to a path below %s/ (if such a mount exists)", s.mount),
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
	fault := func(format string, args ...any) error {
		return fmt.Errorf("%w: %w: %s", record.ErrStoreUnavailable, errUnfit, fmt.Sprintf(format, args...))
	}
	switch {
	case mount != s.mount:
		return fault("the secrets engine for the path %s is mounted at %s: set the mount to that and put the rest into the prefix",
			s.mount, mount)
	case answer.Data.Type != "kv" && answer.Data.Type != "generic":
		return fault("the secrets engine at %s/ is of type %s, not KV version 2: use another mount", mount, answer.Data.Type)
	case answer.Data.Options["version"] != "2":
		return fault("the secrets engine at %s/ is KV version 1, which has no compare-and-set, and nothing is written there: "+
			"enable version 2 (vault kv enable-versioning %s) or use another mount", mount, mount)
	}
	return nil
}
