package record

import (
	"context"
	"iter"
)

// A Revision is a store's mark of one saved state of a record. Two states of a
// record never share one, also not after the connection was deleted and made anew
// as long as it was deleted by a tombstone. 0 stands for "no record".
type Revision uint64

// A Store keeps the records of connections. Everything that has to hold across
// processes is built on its compare-and-set: [Store.Save].
//
// A store may also be a [CheckedStore], a [VersionedStore], a [SharedStore] and an
// [io.Closer], which is closed when the last user of the store is done.
//
// Errors: [ErrNotFound] and [ErrConflict] as documented below, and [ErrRecordTooLarge]
// from Save. Any other means that the store could not tell, and matches
// [ErrStoreUnavailable]. No error has a part of a record in its text.
type Store interface {
	// Load returns the record of key and its revision, or [ErrNotFound]. Tombstones
	// are records like any other; see [Record.Deleted].
	Load(ctx context.Context, key Key) (*Record, Revision, error)

	// Save stores rec under rec.Key if the stored revision is still rev (0: if there
	// is none) and returns the new revision. Otherwise it stores nothing and returns
	// [ErrConflict]. When Save returns without error, rec survives a crash of this
	// process and, with a store of its own process, of that.
	//
	// After an error other than ErrConflict the record may have been saved or not.
	Save(ctx context.Context, rec *Record, rev Revision) (Revision, error)

	// Delete removes the record of key and all that was ever stored under it. It is
	// no compare-and-set and makes revisions start anew, so it is only for what is
	// dead already: tombstones. Deleting what is not there is no error.
	Delete(ctx context.Context, key Key) error

	// List yields the keys of all records, tombstones included, in no order: those of
	// one consumer if application and consumer are given, of one application if
	// consumer is empty, else all. Its cost is that of the keys which it yields.
	List(ctx context.Context, application, consumer string) iter.Seq2[Key, error]
}

// A CheckedStore can say whether it would work now. Readiness asks it.
type CheckedStore interface {
	Store

	// Check returns nil if the store can be read and written, else what is wrong and what
	// an operator should do.
	Check(ctx context.Context) error
}

// A VersionedStore keeps earlier revisions of a record until they are destroyed.
type VersionedStore interface {
	Store

	// DestroyEarlier makes the revisions of key's record before rev unreadable, and
	// leaves rev and later ones as they are.
	DestroyEarlier(ctx context.Context, key Key, rev Revision) error
}

// A SharedStore says whether other processes may write to the store at the same
// time. A Store that does not implement it is taken to be shared.
type SharedStore interface {
	Store

	// Shared is false if no other process can have the store open, so that a lease
	// which this process did not take belongs to a process that is gone.
	Shared() bool
}
