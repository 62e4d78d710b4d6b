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

// secretData is the data of a connection's secret. The record is a string, not an object:
// on reading, the engine decodes numbers to floating point, which changes large ones and
// makes a version that contains 1e400 unreadable for ever.
type secretData struct {
	Record  string `json:"record"`
	WriteID string `json:"write_id"`
}

// A version is one version of a connection's secret.
type version struct {
	number  uint64 // 0: the secret does not exist
	record  []byte // nil: the version was deleted or destroyed, or number is 0
	writeID string
}

// readVersion reads a version by number, the latest if number is 0.
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
			Data     *secretData `json:"data"`
			Metadata struct {
				Version uint64 `json:"version"`
			} `json:"metadata"`
		} `json:"data"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return version{}, s.unreadable(r)
	}
	v := version{number: answer.Data.Metadata.Version}
	if !readable { // a 404 with a body: the version is deleted or destroyed
		return v, nil
	}
	if answer.Data.Data == nil || answer.Data.Data.Record == "" || v.number == 0 {
		return version{}, fmt.Errorf("%w: the token broker did not write the secret at %s: "+
			"use another prefix, or move the secret away", record.ErrStoreUnavailable, s.fullPath(r))
	}
	v.record, v.writeID = []byte(answer.Data.Data.Record), answer.Data.Data.WriteID
	return v, nil
}
