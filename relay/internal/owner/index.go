package owner

import (
	"slices"
	"sort"
	"unsafe"
)

// entry is one open delivery in 16 bytes.
type entry struct {
	seq      uint64
	deadline uint32 // seconds since 1970
	attempts uint16
	flags    uint16 // what it waits for in the low two bits: Ready, Waiting or Held
}

const (
	waitsMask      = 0b11
	flagUnrecorded = 1 << 2
	flagBusy       = 1 << 3
)

// status is Busy where it is, whatever it waits for otherwise.
func (e *entry) status() Status {
	if e.busy() {
		return Busy
	}
	return e.waits()
}

func (e *entry) busy() bool { return e.flags&flagBusy != 0 }

func (e *entry) waits() Status { return Status(e.flags & waitsMask) }

func (e *entry) setWaits(s Status) { e.flags = e.flags&^waitsMask | uint16(s) }

// blockSize is how many entries a block holds at most: an insertion moves 8 KiB at worst, and a million entries are two
// thousand blocks.
const blockSize = 512

// index is an endpoint's open deliveries in ascending order of sequence: a list of sorted blocks. What comes last, as nearly all
// does, is appended to the last block, so that blocks are full.
type index struct {
	blocks [][]entry
	// soonest is, for each block, at or below the deadline of each entry that a deadline can end; see overdue.
	soonest []uint32
	n       int
}

func (x *index) len() int { return x.n }

// bytes is what the blocks and the list of them take.
func (x *index) bytes() int {
	n := cap(x.blocks) * int(unsafe.Sizeof([]entry(nil)))
	for _, b := range x.blocks {
		n += cap(b) * int(unsafe.Sizeof(entry{}))
	}
	return n
}

// locate finds the block that holds seq, or that it belongs in, and its place there.
func (x *index) locate(seq uint64) (block, at int, found bool) {
	block = sort.Search(len(x.blocks), func(i int) bool {
		b := x.blocks[i]
		return b[len(b)-1].seq >= seq
	})
	if block == len(x.blocks) {
		if block == 0 {
			return 0, 0, false
		}
		return block - 1, len(x.blocks[block-1]), false
	}
	b := x.blocks[block]
	at = sort.Search(len(b), func(i int) bool { return b[i].seq >= seq })
	return block, at, b[at].seq == seq
}

func (x *index) get(seq uint64) (entry, bool) {
	block, at, found := x.locate(seq)
	if !found {
		return entry{}, false
	}
	return x.blocks[block][at], true
}

func (x *index) first() (entry, bool) {
	if x.n == 0 {
		return entry{}, false
	}
	return x.blocks[0][0], true
}

// put inserts e, or replaces and returns the entry with its sequence.
func (x *index) put(e entry) (old entry, replaced bool) {
	block, at, found := x.locate(e.seq)
	if found {
		old = x.blocks[block][at]
		x.blocks[block][at] = e
		x.soonest[block] = min(x.soonest[block], e.ends())
		return old, true
	}
	x.n++
	if len(x.blocks) == 0 {
		x.blocks, x.soonest = [][]entry{{e}}, []uint32{e.ends()}
		return entry{}, false
	}
	b := x.blocks[block]
	if len(b) == blockSize {
		if block == len(x.blocks)-1 && at == len(b) {
			x.blocks = append(x.blocks, append(make([]entry, 0, 16), e))
			x.soonest = append(x.soonest, e.ends())
			return entry{}, false
		}
		half := append(make([]entry, 0, blockSize), b[blockSize/2:]...)
		x.blocks[block] = b[:blockSize/2]
		x.blocks = append(x.blocks, nil)
		copy(x.blocks[block+2:], x.blocks[block+1:])
		x.blocks[block+1] = half
		x.soonest = slices.Insert(x.soonest, block, x.soonest[block])
		if at > blockSize/2 {
			block, at = block+1, at-blockSize/2
		}
		b = x.blocks[block]
	}
	b = append(b, entry{})
	copy(b[at+1:], b[at:])
	b[at] = e
	x.blocks[block] = b
	x.soonest[block] = min(x.soonest[block], e.ends())
	return entry{}, false
}

func (x *index) remove(seq uint64) (entry, bool) {
	block, at, found := x.locate(seq)
	if !found {
		return entry{}, false
	}
	x.n--
	b := x.blocks[block]
	old := b[at]
	if at == 0 {
		b = b[1:] // from the front, as draining does, nothing moves
	} else {
		b = append(b[:at], b[at+1:]...)
	}
	x.blocks[block] = b
	switch {
	case len(b) == 0:
		x.drop(block)
	case len(b) <= sparse:
		x.merge(block)
	}
	return old, true
}

// sparse is the length at which a block is joined with a neighbour, so that what stays behind of many entries does not
// keep a block each.
const sparse = blockSize / 8

// merge joins a block with the one before or after it where both are small.
func (x *index) merge(block int) {
	if block > 0 && len(x.blocks[block-1])+len(x.blocks[block]) <= blockSize/2 {
		block--
	}
	if block+1 == len(x.blocks) || len(x.blocks[block])+len(x.blocks[block+1]) > blockSize/2 {
		return
	}
	x.blocks[block] = slices.Concat(x.blocks[block], x.blocks[block+1])
	x.soonest[block] = min(x.soonest[block], x.soonest[block+1])
	x.drop(block + 1)
}

func (x *index) drop(block int) {
	x.blocks = slices.Delete(x.blocks, block, block+1)
	x.soonest = slices.Delete(x.soonest, block, block+1)
}

// ascend calls yield for each entry from seq on until it returns false. yield must not change an entry.
func (x *index) ascend(seq uint64, yield func(*entry) bool) {
	if x.n == 0 {
		return
	}
	block, at, _ := x.locate(seq)
	for ; block < len(x.blocks); block, at = block+1, 0 {
		for b := x.blocks[block]; at < len(b); at++ {
			if !yield(&b[at]) {
				return
			}
		}
	}
}
