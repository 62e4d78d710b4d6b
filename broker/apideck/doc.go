// Package apideck is the HTTP contract with callers, which follows the Apideck API: the names
// of its headers, the JSON bodies of requests, which it parses to imports and updates of
// package record, and the JSON of connections, which it encodes.
//
// It sends and serves nothing, and knows neither Caddy nor the engine. The Caddy module uses
// it for the Connections API and the Proxy API.
package apideck
