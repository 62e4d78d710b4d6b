package importing

import (
	"hash/maphash"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
)

// An outcome is the result of a row. The broker sends created, updated and kept.
type outcome string

const (
	outcomeCreated outcome = "created"
	outcomeUpdated outcome = "updated"
	outcomeKept    outcome = "kept"
	outcomeRefused outcome = "refused"
	outcomeSkipped outcome = "skipped" // it is no connection, or one of another application
)

// An item is one row of the file, on its way.
type item struct {
	record *transfer.Record
	key    record.Key
	body   []byte // the row as it is sent; nil if it is not

	outcome outcome // empty until known
	reason  string  // why it was refused or skipped, for counting
	text    string  // the same about this row
	warning string  // the broker's
	queued  bool    // a refresh follows
}

func (it *item) refuse(reason, text string) {
	it.outcome, it.reason, it.text = outcomeRefused, reason, text
}

// encode sets the body, or refuses the row. It reports whether there is a body. asRead permits
// what the file has, which is a row that was checked.
func (it *item) encode(res *transfer.Result, asRead bool) bool {
	if it.body = res.Text; it.body != nil && asRead {
		return true
	}
	var err error
	if it.body, err = res.Row.AppendJSON(nil); err != nil {
		it.body = nil
		it.refuse(string(transfer.ReasonField), err.Error())
	}
	return err == nil
}

func (it *item) skip(reason string) {
	it.outcome, it.reason, it.text = outcomeSkipped, reason, reason
}

// A batch is rows in sequence. Those that are not sent are in it too, so that it says which
// rows are done.
type batch struct {
	items []*item
	bytes int                 // of the bodies
	sent  int                 // rows that are sent
	keys  map[uint64]struct{} // hashes of the connections, to tell which batches share one
}

// The limits of a batch. The broker accepts 1,000 rows and 16 MiB; of ordinary rows this is
// enough to be fast, and several batches in progress stay small.
const (
	maxSent  = 250
	maxItems = 1000
	maxBytes = 1 << 20
)

func (b *batch) isFull() bool {
	return b.sent >= maxSent || len(b.items) >= maxItems || b.bytes >= maxBytes
}

// pending returns the rows that are sent.
func (b *batch) pending() []*item {
	pending := make([]*item, 0, b.sent)
	for _, it := range b.items {
		if it.body != nil {
			pending = append(pending, it)
		}
	}
	return pending
}

func (b *batch) span() span {
	return span{First: b.items[0].record.Number, Last: b.items[len(b.items)-1].record.Number}
}

// add adds a row. seed is that of the hashes in keys.
func (b *batch) add(it *item, seed maphash.Seed) {
	b.items = append(b.items, it)
	if it.body != nil {
		b.sent++
		b.bytes += len(it.body)
		b.keys[maphash.Comparable(seed, it.key)] = struct{}{}
	}
}
