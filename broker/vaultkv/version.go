package vaultkv

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A stored is what Vault keeps under a connection's path. The record is a string, not
// an object: the engine decodes numbers into floating point on their way out, which
// changes large ones and makes a version with 1e400 in it unreadable for ever.
type stored struct {
	Record  string `json:"record"`
	WriteID string `json:"write_id"`
}

// A version is a state of a record in Vault.
type version struct {
	number  uint64 // 0: there never was one, or its metadata is gone
	record  []byte // nil: deleted or destroyed, or number is 0
	writeID string
}

// readVersion reads a version by number, 0 for the latest.
func (s *Store) readVersion(ctx context.Context, key record.Key, number uint64) (version, error) {
	r := request{method: http.MethodGet, engine: "data", path: connectionPath(key), capabilities: "read"}
	if number > 0 {
		r.query = url.Values{"version": {strconv.FormatUint(number, 10)}}
	}
	body, err := s.do(ctx, r)
	readable := err == nil
	if !readable && !isNotFound(err) {
		return version{}, err
	}
	if len(body) == 0 {
		return version{}, nil
	}
	var answer struct {
		Data struct {
			Data     *stored `json:"data"`
			Metadata struct {
				Version uint64 `json:"version"`
			} `json:"metadata"`
		} `json:"data"`
	}
	if json.Unmarshal(body, &answer) != nil {
		// Not wrapped: the decoder's error can quote what it read.
		return version{}, s.unreadable(r)
	}
	v := version{number: answer.Data.Metadata.Version}
	if !readable { // a 404 with a body: the version was deleted or destroyed
		return v, nil
	}
	if answer.Data.Data == nil || answer.Data.Data.Record == "" || v.number == 0 {
		return version{}, fmt.Errorf("%w: there is a secret at %s that the token broker did not write: "+
			"use another prefix, or move it away", record.ErrStoreUnavailable, s.fullPath(r))
	}
	v.record, v.writeID = []byte(answer.Data.Data.Record), answer.Data.Data.WriteID
	return v, nil
}

// versionsBefore returns the numbers of those versions before a given one that are
// not destroyed yet. There are no more of them than the engine's max_versions.
func (s *Store) versionsBefore(ctx context.Context, key record.Key, number uint64) ([]uint64, error) {
	r := request{method: http.MethodGet, engine: "metadata", path: connectionPath(key), capabilities: "read"}
	body, err := s.do(ctx, r)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data struct {
			Versions map[uint64]struct {
				Destroyed bool `json:"destroyed"`
			} `json:"versions"`
		} `json:"data"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return nil, s.unreadable(r)
	}
	var before []uint64
	for n, state := range answer.Data.Versions {
		if n < number && !state.Destroyed {
			before = append(before, n)
		}
	}
	return before, nil
}

func (s *Store) destroy(ctx context.Context, key record.Key, numbers []uint64) error {
	body, err := json.Marshal(map[string][]uint64{"versions": numbers})
	if err != nil {
		return err
	}
	_, err = s.do(ctx, request{
		method: http.MethodPut, engine: "destroy", path: connectionPath(key), body: body, capabilities: "update",
	})
	return err
}
