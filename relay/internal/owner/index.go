package owner

import (
	"slices"
	"sort"
	"unsafe"
)

// entry is one open delivery.
type entry struct {
	seq      uint64
	deadline uint32 // seconds since 1970
	attempts uint16
	flags    uint16 // what it waits for in the low two bits: Ready, Waiting or Held
}

// packed is an entry in 12 bytes: the upper half of its sequence is its block's.
type packed struct {
	low      uint32
	deadline uint32
	attempts uint16
	flags    uint16
}

// block holds entries whose sequences have the same upper half, in ascending order; at least one.
type block struct {
	high    uint32
	soonest uint32 // at or below the deadline of each entry that a deadline can end; see overdue
	packed  []packed
}

func (e *entry) high() uint32 { return uint32(e.seq >> 32) }

func (e *entry) pack() packed { return packed{uint32(e.seq), e.deadline, e.attempts, e.flags} }

func (b *block) at(i int) entry {
	p := &b.packed[i]
	return entry{uint64(b.high)<<32 | uint64(p.low), p.deadline, p.attempts, p.flags}
}

func (b *block) seq(i int) uint64 { return uint64(b.high)<<32 | uint64(b.packed[i].low) }

func (b *block) len() int { return len(b.packed) }

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

// blockSize is how many entries a block holds at most: an insertion moves 6 KiB at worst, and a million entries are two
// thousand blocks.
const blockSize = 512

// index is an endpoint's open deliveries in ascending order of sequence: a list of sorted blocks. What comes last, as nearly all
// does, is appended to the last block, so that blocks are full.
type index struct {
	blocks []block
	n      int
}

func (x *index) len() int { return x.n }

// bytes is what the blocks and the list of them take.
func (x *index) bytes() int {
	n := cap(x.blocks) * int(unsafe.Sizeof(block{}))
	for i := range x.blocks {
		n += cap(x.blocks[i].packed) * int(unsafe.Sizeof(packed{}))
	}
	return n
}

// locate finds the block that holds seq, or that it would follow or precede, and its place there.
func (x *index) locate(seq uint64) (at, place int, found bool) {
	at = sort.Search(len(x.blocks), func(i int) bool {
		b := &x.blocks[i]
		return b.seq(b.len()-1) >= seq
	})
	if at == len(x.blocks) {
		if at == 0 {
			return 0, 0, false
		}
		return at - 1, x.blocks[at-1].len(), false
	}
	b := &x.blocks[at]
	place = sort.Search(b.len(), func(i int) bool { return b.seq(i) >= seq })
	return at, place, b.seq(place) == seq
}

func (x *index) get(seq uint64) (entry, bool) {
	at, place, found := x.locate(seq)
	if !found {
		return entry{}, false
	}
	return x.blocks[at].at(place), true
}

func (x *index) first() (entry, bool) {
	if x.n == 0 {
		return entry{}, false
	}
	return x.blocks[0].at(0), true
}

// put inserts e, or replaces and returns the entry with its sequence.
func (x *index) put(e entry) (old entry, replaced bool) {
	at, place, found := x.locate(e.seq)
	if found {
		b := &x.blocks[at]
		old = b.at(place)
		b.packed[place] = e.pack()
		b.soonest = min(b.soonest, e.ends())
		return old, true
	}
	x.n++
	switch {
	case len(x.blocks) == 0:
		x.insert(0, e)
	case x.blocks[at].high != e.high():
		if place > 0 {
			at++
		}
		x.insert(at, e)
	case x.blocks[at].len() == blockSize && at == len(x.blocks)-1 && place == blockSize:
		x.insert(at+1, e)
	default:
		if x.blocks[at].len() == blockSize {
			x.split(at)
			if place > blockSize/2 {
				at, place = at+1, place-blockSize/2
			}
		}
		b := &x.blocks[at]
		b.packed = slices.Insert(b.packed, place, e.pack())
		b.soonest = min(b.soonest, e.ends())
	}
	return entry{}, false
}

// insert makes a block for an entry.
func (x *index) insert(at int, e entry) {
	x.blocks = slices.Insert(x.blocks, at, block{e.high(), e.ends(), append(make([]packed, 0, 16), e.pack())})
}

// split makes two blocks of a full one.
func (x *index) split(at int) {
	b := &x.blocks[at]
	half := block{b.high, b.soonest, append(make([]packed, 0, blockSize), b.packed[blockSize/2:]...)}
	b.packed = b.packed[:blockSize/2]
	x.blocks = slices.Insert(x.blocks, at+1, half)
}

func (x *index) remove(seq uint64) (entry, bool) {
	at, place, found := x.locate(seq)
	if !found {
		return entry{}, false
	}
	x.n--
	b := &x.blocks[at]
	old := b.at(place)
	if place == 0 {
		b.packed = b.packed[1:] // from the front, as draining does, nothing moves
	} else {
		b.packed = append(b.packed[:place], b.packed[place+1:]...)
	}
	switch {
	case b.len() == 0:
		x.blocks = slices.Delete(x.blocks, at, at+1)
	case b.len() <= sparse:
		x.merge(at)
	}
	return old, true
}

// sparse is the length at which a block is joined with a neighbour, so that what stays behind of many entries does not
// keep a block each.
const sparse = blockSize / 8

// merge joins a block with the one before or after it where both are small.
func (x *index) merge(at int) {
	small := func(i int) bool {
		return i >= 0 && i+1 < len(x.blocks) && x.blocks[i].high == x.blocks[i+1].high && x.blocks[i].len()+x.blocks[i+1].len() <= blockSize/2
	}
	if small(at - 1) {
		at--
	}
	if !small(at) {
		return
	}
	b, next := &x.blocks[at], &x.blocks[at+1]
	b.packed = slices.Concat(b.packed, next.packed)
	b.soonest = min(b.soonest, next.soonest)
	x.blocks = slices.Delete(x.blocks, at+1, at+2)
}

// ascend calls yield for each entry from seq on until it returns false. The index must not be changed meanwhile.
func (x *index) ascend(seq uint64, yield func(*entry) bool) {
	if x.n == 0 {
		return
	}
	var e entry
	at, place, _ := x.locate(seq)
	for ; at < len(x.blocks); at, place = at+1, 0 {
		b := &x.blocks[at]
		for ; place < b.len(); place++ {
			if e = b.at(place); !yield(&e) {
				return
			}
		}
	}
}
