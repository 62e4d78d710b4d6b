package record

import (
	"context"
	"iter"
)

// A Revision identifies one saved state of a record. Two states of a record never share a
// revision, unless [Store.Delete] came between them. 0 means that there is no record.
type Revision uint64

// A Store keeps the records of connections. All guarantees across processes rest on its
// compare-and-set, [Store.Save].
//
// A store may also implement [CheckedStore], [VersionedStore], [PruningStore], [SharedStore],
// [ResumableStore] and [io.Closer].
// It is closed once its last user is done.
//
// The methods return [ErrNotFound], [ErrConflict] and [ErrRecordTooLarge] as documented. Any
// other error means that the outcome is unknown, and matches [ErrStoreUnavailable]. No error
// text contains a part of a record.
type Store interface {
	// Load returns the record of key and its revision, or [ErrNotFound]. It returns
	// tombstones like other records; see [Record.Deleted].
	Load(ctx context.Context, key Key) (*Record, Revision, error)

	// Save stores rec under rec.Key and returns its new revision, if the stored revision
	// is still rev; a rev of 0 requires that there is no record. Otherwise it stores nothing and
	// returns [ErrConflict]. It returns [ErrRecordTooLarge] for a record that the store can
	// never accept. Once Save returns nil, rec survives a crash of this process and of the
	// store's.
	//
	// After any other error the record may or may not have been saved.
	Save(ctx context.Context, rec *Record, rev Revision) (Revision, error)

	// Delete removes the record of key with all its revisions. It does not compare
	// revisions, and the next record of key may reuse them, so it is only for tombstones.
	// Deleting a record that does not exist is not an error.
	Delete(ctx context.Context, key Key) error

	// List yields the keys of records, tombstones included, in no particular order: those
	// of one consumer, of one application if consumer is empty, or all if both are empty.
	// Its cost depends only on the number of keys that it yields.
	List(ctx context.Context, application, consumer string) iter.Seq2[Key, error]
}

// A CheckedStore can tell whether it works, for readiness.
type CheckedStore interface {
	Store

	// Check returns nil if the store can be read and written. Otherwise the error says
	// what is wrong and what an operator should do.
	Check(ctx context.Context) error
}

// A VersionedStore keeps earlier revisions of a record until they are destroyed.
type VersionedStore interface {
	Store

	// DestroyEarlier makes all revisions of key's record before rev unreadable.
	DestroyEarlier(ctx context.Context, key Key, rev Revision) error
}

// A PruningStore destroys revisions by itself, or many of them at once, to save requests.
type PruningStore interface {
	VersionedStore

	// KeepsFew reports whether [VersionedStore.DestroyEarlier] can be left out after the
	// refresh that saved rev: rev has no earlier revisions, or a later refresh destroys
	// them too.
	KeepsFew(key Key, rev Revision) bool
}

// A SharedStore tells whether other processes may write to the store at the same time. A
// Store that does not implement it counts as shared.
type SharedStore interface {
	Store

	// Shared returns false if no other process can have the store open. A lease that this
	// process did not take then belongs to a process that has ended.
	Shared() bool
}

// A ResumableStore can list its keys from a position on, so that the sweep can go on where it
// was. With other stores each sweep begins with the first key.
type ResumableStore interface {
	Store

	// ListAfter yields the keys of all records, as [Store.List] does, in an order that never
	// changes: only those behind after, which need not exist, or all if after is zero. It does
	// not read what comes before. The keys of an application follow one another; before them
	// stands the key that has only the application.
	ListAfter(ctx context.Context, after Key) iter.Seq2[Key, error]
}
