package brokertest

import (
	"context"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// A MemJournal is a [record.Journal] in memory. It outlives the brokers that use it, as a
// disk outlives processes. The zero value is an empty journal, ready to use.
type MemJournal struct {
	mu      sync.Mutex
	fail    error             // guarded by mu
	entries map[string][]byte // guarded by mu
}

// Fail makes every operation return err; nil makes the journal work again.
func (j *MemJournal) Fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.fail = err
}

// Len returns the number of entries.
func (j *MemJournal) Len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.entries)
}

// Check implements [record.Journal].
func (j *MemJournal) Check(context.Context) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.fail
}

// Put implements [record.Journal].
func (j *MemJournal) Put(_ context.Context, id string, data []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fail != nil {
		return j.fail
	}
	if j.entries == nil {
		j.entries = make(map[string][]byte)
	}
	j.entries[id] = slices.Clone(data)
	return nil
}

// Remove implements [record.Journal].
func (j *MemJournal) Remove(_ context.Context, id string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.entries, id)
	return j.fail
}

// Entries implements [record.Journal].
func (j *MemJournal) Entries(context.Context) iter.Seq2[record.JournalEntry, error] {
	return func(yield func(record.JournalEntry, error) bool) {
		j.mu.Lock()
		fail, entries := j.fail, maps.Clone(j.entries)
		j.mu.Unlock()
		if fail != nil {
			yield(record.JournalEntry{}, fail)
			return
		}
		for id, data := range entries {
			if !yield(record.JournalEntry{ID: id, Data: slices.Clone(data)}, nil) {
				return
			}
		}
	}
}

var _ record.Journal = (*MemJournal)(nil)
