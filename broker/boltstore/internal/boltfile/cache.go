package boltfile

import (
	"hash/crc32"
	"sync"
)

// A cache has the checksums of the pages of one state that were checked. A page that still has
// its checksum is not checked again, and one that has another was damaged since.
type cache struct {
	mu   sync.RWMutex
	tx   uint64             // 0 is none; guarded by mu
	sums map[uint64]content // by page; guarded by mu
}

// content identifies what is in use of a page.
type content struct {
	size uint32
	sum  uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func contentOf(b []byte) content {
	return content{uint32(len(b)), crc32.Checksum(b, castagnoli)}
}

// Begin forgets all checksums. From now on those of the state after tx are kept.
func (f *File) Begin(tx uint64) {
	f.cache.mu.Lock()
	defer f.cache.mu.Unlock()
	f.cache.tx, f.cache.sums = tx, make(map[uint64]content)
}

// Advance goes on to the state after tx. replaced are the pages that the state before has and it
// may not have. All pages that bbolt wrote were free before: so they have no checksum.
func (f *File) Advance(tx uint64, replaced []uint64) {
	f.cache.mu.Lock()
	defer f.cache.mu.Unlock()
	f.cache.tx = tx
	for _, id := range replaced {
		delete(f.cache.sums, id)
	}
}

func (c *cache) get(id uint64) (content, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	sum, ok := c.sums[id]
	return sum, ok
}

// put keeps a checksum, unless the state has passed in which the page was read: the page may be
// free now, and have other content next.
func (c *cache) put(tx, id uint64, sum content) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if tx == c.tx && c.sums != nil {
		c.sums[id] = sum
	}
}
