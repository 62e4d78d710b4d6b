package record

import (
	"context"
	"iter"
)

// A Journal keeps token responses that the [Store] did not accept on this machine's disk:
// a token endpoint does not repeat them. The entries contain secrets.
type Journal interface {
	// Check returns nil if an entry could be written now.
	Check(ctx context.Context) error

	// Put writes data under id and replaces an earlier entry. Once it returns nil, the
	// entry survives a crash of the machine.
	Put(ctx context.Context, id string, data []byte) error

	// Remove deletes an entry. Removing an entry that does not exist is not an error.
	Remove(ctx context.Context, id string) error

	// Entries yields the entries of this process and of ended processes on this machine,
	// in no particular order.
	Entries(ctx context.Context) iter.Seq2[JournalEntry, error]
}

// A JournalEntry is an entry of a [Journal].
type JournalEntry struct {
	ID   string
	Data []byte // contains secrets
}
