// Package transfer is the file format in which connections move between systems, and the
// conversion of other systems' tables to it. The canonical row is the body of an import with
// the name of the connection beside it, one JSON object a line.
//
// Files can be larger than memory: readers and writers handle one row at a time. The commands
// that import, export and verify connections use it. It sends nothing, and stores nothing.
package transfer
