// Package storesocket lets commands of the operator use a store that this process alone has open:
// over a Unix socket in the store's directory. It gives away nothing that the files do not: only
// the user whom they belong to, and root, can use it.
//
// The directory must have mode 0700, and the socket gets 0600. Where the system tells who is at
// the other end of a socket, both sides check that too: on Linux, macOS and FreeBSD. Elsewhere the
// modes must do; where files have none, as on Windows, nothing is served.
//
// The protocol is HTTP, and may change with every release: both sides are the same program.
package storesocket

import (
	"encoding/json"
	"errors"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Name is the name of the socket in the directory.
const Name = "operator.sock"

// Errors of [Serve] and [Dial].
var (
	// ErrUnsafe means that other users could use the socket, or have made it.
	ErrUnsafe = errors.New("the socket of the embedded store is not safe")

	// ErrNotServed means that no process serves the store.
	ErrNotServed = errors.New("no process serves the embedded store")
)

// The operations, by path.
const (
	pathLoad  = "/load"
	pathSave  = "/save"
	pathList  = "/list"
	pathCheck = "/check"
)

// maxMessage bounds a message, in bytes. Stores take no record that is nearly as large.
const maxMessage = 16 << 20

// A wireKey is a [record.Key].
type wireKey struct {
	Application string `json:"application"`
	Consumer    string `json:"consumer"`
	UnifiedAPI  string `json:"unified_api"`
	ServiceID   string `json:"service_id"`
}

func newWireKey(key record.Key) wireKey {
	return wireKey{key.Application, key.Consumer, key.Connector.UnifiedAPI, key.Connector.ServiceID}
}

func (w wireKey) key() record.Key {
	return record.Key{Application: w.Application, Consumer: w.Consumer, Connector: connector.ID{UnifiedAPI: w.UnifiedAPI, ServiceID: w.ServiceID}}
}

// A message is a request, or the answer to one. Which members it has depends on the operation.
type message struct {
	Key      *wireKey        `json:"key,omitempty"`
	Revision record.Revision `json:"revision,omitempty"`
	Record   json.RawMessage `json:"record,omitempty"` // as record.Encode has it
	Error    string          `json:"error,omitempty"`
	End      bool            `json:"end,omitempty"` // of a list: without it the list was cut off
}
