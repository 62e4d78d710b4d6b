package vaultkv

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"net/http"
	"sync"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

const (
	// spread is how many refreshes may pass before the versions that they replaced are
	// destroyed, if the engine does not remove them itself.
	spread = 20

	// fewVersions is how many versions a connection may have that was never refreshed.
	fewVersions = 3

	// trustTime is how long a mount counts as one that removes earlier versions itself, or
	// does not. Its configuration or the policy may change.
	trustTime = time.Hour

	// maxSingle bounds the secrets that are remembered, at about 10 bytes each. Another one
	// costs one more request each time.
	maxSingle = 1 << 18
)

// single says of which secrets the engine keeps the latest version only.
type single struct {
	mu       sync.Mutex
	seed     maphash.Seed    // guarded by mu
	secrets  map[uint64]bool // guarded by mu; by the hash of the path, if max_versions is 1; true: all earlier versions were destroyed since
	obeyed   time.Time       // guarded by mu; when the engine was last seen to remove a version
	disabled time.Time       // guarded by mu; until when max_versions is left alone
}

// holds reports whether the engine removes the earlier versions of a secret.
func (k *single) holds(path string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.secrets[k.hash(path)]
	return ok && time.Since(k.obeyed) < trustTime
}

// has reports whether max_versions of a secret was set.
func (k *single) has(path string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.secrets[k.hash(path)]
	return ok
}

// isClean reports whether a secret can only have earlier versions that the engine did not
// remove.
func (k *single) isClean(path string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.secrets[k.hash(path)]
}

func (k *single) add(path string, clean bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.secrets == nil || len(k.secrets) >= maxSingle {
		k.secrets = make(map[uint64]bool)
	}
	k.secrets[k.hash(path)] = clean
}

// remove forgets a secret: it was deleted or created, and its max_versions is the default.
func (k *single) remove(path string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.secrets, k.hash(path))
}

// hash is for callers that hold mu.
func (k *single) hash(path string) uint64 {
	if k.seed == (maphash.Seed{}) {
		k.seed = maphash.MakeSeed()
	}
	return maphash.String(k.seed, path)
}

// obey notes that the engine has removed a version.
func (k *single) obey() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.obeyed = time.Now()
}

// disable notes that max_versions cannot be set, or has no effect.
func (k *single) disable() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.disabled, k.secrets = time.Now().Add(trustTime), nil
}

func (k *single) isDisabled() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Now().Before(k.disabled)
}

// KeepsFew implements [record.PruningStore]. A refresh saves two versions.
func (s *Store) KeepsFew(key record.Key, rev record.Revision) bool {
	return s.single.holds(connectionPath(key)) || s.single.isDisabled() && rev%(2*spread) > 1
}

// DestroyEarlier implements [record.VersionedStore]. Versions that were deleted, not
// destroyed, are destroyed too: they could be undeleted.
func (s *Store) DestroyEarlier(ctx context.Context, key record.Key, rev record.Revision) error {
	if rev <= 1 || s.single.holds(connectionPath(key)) {
		return nil
	}
	err := s.begin(ctx, key)
	if err == nil {
		err = s.destroyEarlier(ctx, key, uint64(rev))
	}
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("destroying earlier versions of %s: %w", key, err)
	}
	return nil
}

func (s *Store) destroyEarlier(ctx context.Context, key record.Key, number uint64) error {
	path := connectionPath(key)
	if number <= fewVersions && !s.single.has(path) { // an import has replaced another
		return s.destroy(ctx, path, []uint64{1, 2}[:number-1])
	}
	meta, err := s.readMetadata(ctx, path)
	if err != nil || meta.Latest == 0 {
		return err
	}
	limited := meta.MaxVersions == 1
	earlier := meta.before(number)
	switch {
	case s.single.isDisabled():
	case !limited:
		err = s.keepOne(ctx, path)
	case len(earlier) > 0 && s.single.isClean(path):
		s.single.disable()
		s.logger.InfoContext(ctx, "the mount in Vault is configured to keep earlier versions; replaced credentials are destroyed in batches")
	case len(meta.Versions) == 1 && meta.Latest > 1:
		s.single.obey()
	}
	if err == nil && len(earlier) > 0 {
		err = s.destroy(ctx, path, earlier)
	}
	if err == nil && limited && !s.single.isDisabled() {
		s.single.add(path, true)
	}
	return err
}

// prepareRefresh precedes the write that takes the lease of a connection's first refresh. That write
// and the one after the refresh then remove what the import has left. Most connections are
// imported by the thousand, and refreshed much later, so this is not part of the import.
func (s *Store) prepareRefresh(ctx context.Context, key record.Key) {
	if path := connectionPath(key); !s.single.isDisabled() && !s.single.has(path) {
		_ = s.keepOne(ctx, path) // otherwise DestroyEarlier does what is needed
	}
}

// keepOne sets max_versions of a secret to 1. It is no error if that is not allowed.
func (s *Store) keepOne(ctx context.Context, path string) error {
	_, err := s.do(ctx, request{
		method: http.MethodPut, engine: "metadata", path: path, body: []byte(`{"max_versions":1}`), capabilities: "update",
	})
	switch {
	case isForbidden(err):
		s.single.disable()
		s.logger.InfoContext(ctx, "the policy does not allow to set max_versions in Vault; replaced credentials are destroyed in batches")
		return nil
	case err == nil:
		s.single.add(path, false)
	}
	return err
}

// metadata is what the engine says about a secret.
type metadata struct {
	Latest      uint64 `json:"current_version"`
	MaxVersions uint64 `json:"max_versions"`
	Versions    map[uint64]struct {
		Destroyed bool `json:"destroyed"`
	} `json:"versions"`
}

func (s *Store) readMetadata(ctx context.Context, path string) (metadata, error) {
	var answer struct{ Data metadata }
	err := s.get(ctx, request{engine: "metadata", path: path, capabilities: "read"}, &answer)
	return answer.Data, err
}

// before returns the numbers of the versions before the given one that are not destroyed
// yet, at most the engine's max_versions.
func (m *metadata) before(number uint64) []uint64 {
	var before []uint64
	for n, state := range m.Versions {
		if n < number && !state.Destroyed {
			before = append(before, n)
		}
	}
	return before
}

func (s *Store) destroy(ctx context.Context, path string, numbers []uint64) error {
	body, err := json.Marshal(map[string][]uint64{"versions": numbers})
	if err != nil {
		return err
	}
	_, err = s.do(ctx, request{method: http.MethodPut, engine: "destroy", path: path, body: body, capabilities: "update"})
	return err
}
