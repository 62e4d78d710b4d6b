package storesocket

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"path/filepath"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A Store is a [record.Store] that another process has open.
type Store struct {
	path   string
	client *http.Client
}

// maxIdle is how many connections are kept: as many as a command has requests in progress.
const maxIdle = 32

// Dial returns the store that a process serves in dir. Errors: [ErrNotServed], [ErrUnsafe].
func Dial(ctx context.Context, dir string) (*Store, error) {
	path := filepath.Join(dir, Name)
	owner, err := checkSocket(dir, path)
	if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return dialOwner(ctx, path, owner) }
	conn, err := dial(ctx, "", "")
	if err != nil {
		return nil, err
	}
	_ = conn.Close() // it was to see whether the process is still there
	transport := &http.Transport{DialContext: dial, MaxIdleConnsPerHost: maxIdle, DisableCompression: true}
	return &Store{path: path, client: &http.Client{Transport: transport}}, nil
}

// dialOwner connects to the socket, if the process at its other end is of the user it belongs to.
func dialOwner(ctx context.Context, path string, owner int) (net.Conn, error) {
	conn, err := dialSocket(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotServed, err)
	}
	uid, known, err := peer(conn)
	if err == nil && known && uid != owner {
		err = fmt.Errorf("%w: a process of user %d serves %s, which belongs to user %d", ErrUnsafe, uid, path, owner)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// post sends a request. The caller closes the body.
func (s *Store) post(ctx context.Context, path string, m message) (io.ReadCloser, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%w: the request cannot be encoded", record.ErrStoreUnavailable)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://store"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.GetBody = nil // sent once: a save that is repeated conflicts with itself
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", record.ErrStoreUnavailable, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	var answer message
	_ = json.NewDecoder(io.LimitReader(resp.Body, maxMessage)).Decode(&answer) // the status says enough
	cause := record.ErrStoreUnavailable
	for _, known := range statuses {
		if resp.StatusCode == known.status {
			cause = known.err
		}
	}
	return nil, fmt.Errorf("%w: the process that has the store open says: %s", cause, answer.Error)
}

// do sends a request and reads the answer.
func (s *Store) do(ctx context.Context, path string, m message) (answer message, err error) {
	body, err := s.post(ctx, path, m)
	if err != nil {
		return message{}, err
	}
	defer func() { _ = body.Close() }() // it was read
	if err := json.NewDecoder(io.LimitReader(body, maxMessage)).Decode(&answer); err != nil {
		return message{}, fmt.Errorf("%w: the answer was cut off", record.ErrStoreUnavailable)
	}
	return answer, nil
}

// Load implements [record.Store].
func (s *Store) Load(ctx context.Context, key record.Key) (*record.Record, record.Revision, error) {
	named := newWireKey(key)
	answer, err := s.do(ctx, pathLoad, message{Key: &named})
	if err != nil {
		return nil, 0, err
	}
	rec, err := record.Decode(key, answer.Record)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", record.ErrStoreUnavailable, err)
	}
	return rec, answer.Revision, nil
}

// Save implements [record.Store].
func (s *Store) Save(ctx context.Context, rec *record.Record, rev record.Revision) (record.Revision, error) {
	encoded, err := record.Encode(rec)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", record.ErrStoreUnavailable, err)
	}
	named := newWireKey(rec.Key)
	answer, err := s.do(ctx, pathSave, message{Key: &named, Revision: rev, Record: encoded})
	return answer.Revision, err
}

// Delete implements [record.Store]. No command deletes records, so it fails.
func (s *Store) Delete(context.Context, record.Key) error {
	return fmt.Errorf("%w: records cannot be deleted through %s", record.ErrStoreUnavailable, s.path)
}

// Check implements [record.CheckedStore].
func (s *Store) Check(ctx context.Context) error {
	_, err := s.do(ctx, pathCheck, message{Key: &wireKey{}})
	return err
}

// List implements [record.Store].
func (s *Store) List(ctx context.Context, application, consumer string) iter.Seq2[record.Key, error] {
	return func(yield func(record.Key, error) bool) {
		body, err := s.post(ctx, pathList, message{Key: &wireKey{Application: application, Consumer: consumer}})
		if err != nil {
			yield(record.Key{}, err)
			return
		}
		defer func() { _ = body.Close() }() // what is left of it is not needed
		for dec := json.NewDecoder(body); ; {
			var m message
			err := dec.Decode(&m)
			switch {
			case err == nil && m.End:
				return
			case err != nil || m.Error != "" || m.Key == nil:
				yield(record.Key{}, fmt.Errorf("%w: the list of connections was cut off: %s", record.ErrStoreUnavailable, m.Error))
				return
			}
			if !yield(m.Key.key(), nil) {
				return
			}
		}
	}
}

// Close ends the connections to the process.
func (s *Store) Close() error {
	s.client.CloseIdleConnections()
	return nil
}

var (
	_ record.CheckedStore = (*Store)(nil)
	_ io.Closer           = (*Store)(nil)
)
