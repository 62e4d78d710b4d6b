package vaultkv

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Save implements [record.Store]. It makes one request unless something goes wrong, and one more
// when a connection is about to be refreshed for the first time. A
// write whose response was lost is repeated once; the random id in it shows whether a
// conflict is with the write itself.
func (s *Store) Save(ctx context.Context, rec *record.Record, rev record.Revision) (record.Revision, error) {
	if err := s.begin(ctx, rec.Key); err != nil {
		return 0, fmt.Errorf("saving %s: %w", rec.Key, err)
	}
	data, err := record.Encode(rec)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", record.ErrStoreUnavailable, err)
	}
	if rec.Lease != nil && 0 < rev && rev <= fewVersions {
		s.prepareRefresh(ctx, rec.Key)
	}
	w := write{key: rec.Key, secret: secretData{Record: string(data), WriteID: rand.Text()}, create: rev == 0, cas: uint64(rev)}
	number, err := s.save(ctx, &w)
	if err != nil {
		return 0, fmt.Errorf("saving %s: %w", rec.Key, err)
	}
	if number == 1 {
		s.single.remove(connectionPath(rec.Key))
	}
	return record.Revision(number), nil
}

// A write is a Save in progress.
type write struct {
	key      record.Key
	secret   secretData
	create   bool   // the record must not exist
	cas      uint64 // the version that must be the latest
	repeated bool   // an earlier attempt may have been applied
}

func (s *Store) save(ctx context.Context, w *write) (uint64, error) {
	for again := true; ; {
		number, err := s.put(ctx, w)
		switch {
		case err == nil:
			return number, nil
		case isConflict(err):
			saved, retry, err := s.resolve(ctx, w)
			if !retry || !again {
				return saved, err
			}
		case again && shouldRepeat(err) && ctx.Err() == nil:
			w.repeated = true
		default:
			return 0, err
		}
		again = false
	}
}

// A writeBody is the body of a request that writes a version.
type writeBody struct {
	Options writeOptions `json:"options"`
	Data    *secretData  `json:"data"`
}

type writeOptions struct {
	CAS uint64 `json:"cas"`
}

// put makes one attempt and returns the number of the new version.
func (s *Store) put(ctx context.Context, w *write) (uint64, error) {
	r := request{method: http.MethodPut, engine: "data", path: connectionPath(w.key), capabilities: "create, update", once: true}
	var err error
	if r.body, err = json.Marshal(writeBody{Options: writeOptions{w.cas}, Data: &w.secret}); err != nil {
		return 0, fmt.Errorf("%w: the record cannot be encoded", record.ErrStoreUnavailable)
	}
	body, err := s.do(ctx, r)
	if err != nil {
		return 0, err
	}
	var answer struct {
		Data struct {
			Version uint64 `json:"version"`
		} `json:"data"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Data.Version == 0 {
		// Version 1 of the engine answers so after storing the record without comparing
		// cas: the mount was changed after the check.
		s.engine.forget()
		return 0, s.unreadable(r)
	}
	return answer.Data.Version, nil
}

// resolve finds out what a conflict means. It returns the version of the write if that
// was applied after all. If retry is true, the write can be tried again with the new cas.
func (s *Store) resolve(ctx context.Context, w *write) (saved uint64, retry bool, err error) {
	latest, err := s.readVersion(ctx, w.key, 0)
	if err != nil {
		return 0, false, err
	}
	wanted := w.cas + 1
	if latest.number == wanted && latest.writeID == w.secret.WriteID {
		return wanted, false, nil
	}
	if w.repeated && latest.number > wanted {
		// The write may have been applied and overwritten since.
		v, err := s.readVersion(ctx, w.key, wanted)
		switch {
		case err != nil:
			return 0, false, err
		case v.writeID == w.secret.WriteID:
			return wanted, false, nil
		case v.record == nil:
			return 0, false, fmt.Errorf("%w: Vault's response was lost, and the version that tells whether the record was saved is gone", record.ErrStoreUnavailable)
		}
	}
	if w.create && latest.record == nil && latest.number != w.cas {
		w.cas = latest.number
		return 0, true, record.ErrConflict
	}
	return 0, false, record.ErrConflict
}
