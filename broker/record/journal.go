package record

import (
	"context"
	"iter"
)

// A Journal keeps on this machine's disk what a [Store] could not take: the answers
// of token endpoints, which nobody would give a second time. Its entries are secret.
type Journal interface {
	// Check reports whether an entry could be kept now.
	Check(ctx context.Context) error

	// Put keeps data under id, in place of what was kept there. When it returns without
	// error the entry survives a crash of the machine.
	Put(ctx context.Context, id string, data []byte) error

	// Remove forgets an entry. Removing what is not there is no error.
	Remove(ctx context.Context, id string) error

	// Entries yields the entries of this process, and of others on this machine that
	// are gone, in no order.
	Entries(ctx context.Context) iter.Seq2[JournalEntry, error]
}

// A JournalEntry is what was kept under an id.
type JournalEntry struct {
	ID   string
	Data []byte
}
