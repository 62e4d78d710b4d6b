// Package record holds the data of a connection and the rules by which it changes. A [Record]
// is what a [Store] keeps; its methods decide what an import, an update, a token response or a
// failed refresh makes of it. [Record.View] is the part that callers and events may see.
//
// The package sends no request, reads no clock and takes no lock: the time is always an
// argument. It knows no HTTP and no token endpoint. Package broker drives it; stores, the
// journal and webhooks import it for its types; package apideck translates it to JSON.
package record
