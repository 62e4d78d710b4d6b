package vaultkv

import (
	"context"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// maxDepth bounds how deep List goes, in segments: three parts of at most 765 bytes
// each when encoded. Deeper secrets are not the broker's.
const maxDepth = 27

// List implements [record.Store]. It makes one request for each application and each
// consumer that it visits.
func (s *Store) List(ctx context.Context, application, consumer string) iter.Seq2[record.Key, error] {
	return func(yield func(record.Key, error) bool) {
		dir := ""
		if application != "" {
			dir = split(encode(application)) + "/"
			if consumer != "" {
				dir += split(encode(consumer)) + "/"
			}
		}
		s.list(ctx, dir, "", yield)
	}
}

// ListAfter implements [record.ResumableStore]. The order is that of the paths, segment by
// segment. It makes no request for the applications and consumers before after.
func (s *Store) ListAfter(ctx context.Context, after record.Key) iter.Seq2[record.Key, error] {
	return func(yield func(record.Key, error) bool) {
		path := ""
		switch {
		case after == record.Key{}:
		case after.Consumer == "":
			path = split(encode(after.Application)) + "/"
		default:
			path = connectionPath(after)
		}
		s.list(ctx, "", path, yield)
	}
}

// list yields the keys below dir that follow the path after, all if that is empty.
func (s *Store) list(ctx context.Context, dir, after string, yield func(record.Key, error) bool) {
	if err := s.ready(ctx); err != nil {
		yield(record.Key{}, fmt.Errorf("listing connections: %w", err))
		return
	}
	s.walk(ctx, dir, after, yield)
}

// walk yields the keys below dir that follow the path after, relative to dir, all if that is
// empty. It reports whether to continue.
func (s *Store) walk(ctx context.Context, dir, after string, yield func(record.Key, error) bool) bool {
	names, err := s.readDir(ctx, dir)
	if err != nil {
		yield(record.Key{}, fmt.Errorf("listing connections: %w", err))
		return false
	}
	first, rest := cutSegment(after)
	slices.Sort(names) // as Vault does with most of its storages
	for _, name := range names {
		path := dir + name
		if name < first || name == after && !strings.HasSuffix(name, "/") {
			continue
		}
		if strings.HasSuffix(name, "/") && strings.Count(path, "/") < maxDepth {
			below := ""
			if name == first {
				below = rest
			}
			if !s.walk(ctx, path, below, yield) {
				return false
			}
			continue
		}
		key, err := parsePath(path)
		if err != nil {
			s.logger.WarnContext(ctx, "a secret below the broker's prefix in Vault is not a connection; it is left alone",
				"mount", s.mount, "path", s.prefix+"/"+path)
			continue
		}
		if !yield(key, nil) {
			return false
		}
	}
	return true
}

// cutSegment divides a path behind its first slash. A path without a slash is its last segment.
func cutSegment(path string) (first, rest string) {
	if i := strings.IndexByte(path, '/'); i >= 0 {
		return path[:i+1], path[i+1:]
	}
	return path, ""
}

// readDir returns the names in dir, none if it does not exist. Those of directories end
// in a slash.
func (s *Store) readDir(ctx context.Context, dir string) ([]string, error) {
	r := request{engine: "metadata", path: dir, query: url.Values{"list": {"true"}}, capabilities: "list"}
	var answer struct {
		Data struct {
			Keys []string `json:"keys"`
		} `json:"data"`
	}
	if err := s.get(ctx, r, &answer); err != nil {
		return nil, err
	}
	return answer.Data.Keys, nil
}
