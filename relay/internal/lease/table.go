package lease

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/sealpost/sealpost/relay/internal/journal"
)

// table is the bucket as one process has seen it, with when it saw what. Pure: time is an argument.
type table struct {
	partitions []lease
	sessions   map[string]*seen // by id
}

// lease is a partition's key.
type lease struct {
	holder   string
	revision uint64    // 0: there is no such key
	free     time.Time // when it was first seen without a living holder; zero: it has one
}

// seen is a session's key.
type seen struct {
	session
	revision uint64
	at       time.Time // when this revision was first seen
}

func newTable(partitions int, now time.Time) *table {
	t := &table{partitions: make([]lease, partitions), sessions: map[string]*seen{}}
	t.note(now)
	return t
}

// apply takes a key's state; one that is older than what is known changes nothing.
func (t *table) apply(item journal.Item, now time.Time) error {
	if id, ok := strings.CutPrefix(item.Key, relayKey); ok {
		return t.applySession(id, item, now)
	}
	p, ok := partitionOf(item.Key, len(t.partitions))
	if !ok || item.Revision <= t.partitions[p].revision {
		return nil
	}
	var h holding
	var err error
	if !item.Deleted {
		// A record that cannot be read has no holder that anybody knows, and its key has a revision to take it by.
		h, err = decodeHolding(item.Value)
	}
	t.partitions[p].holder, t.partitions[p].revision = h.Holder, item.Revision
	t.note(now)
	return err
}

func (t *table) applySession(id string, item journal.Item, now time.Time) error {
	if known := t.sessions[id]; known != nil && item.Revision <= known.revision {
		return nil
	}
	if item.Deleted {
		t.end(id, now)
		return nil
	}
	s, err := decodeSession(item.Value)
	if err != nil {
		// It may be a later version's, alive: it holds what it holds for as long as it writes.
		s = session{LifeMS: MaxLife.Milliseconds(), Leaving: true}
	}
	t.sessions[id] = &seen{s, item.Revision, now}
	t.note(now)
	return err
}

// keepOnly forgets the sessions that are not among those of a whole reading of the bucket.
func (t *table) keepOnly(there map[string]bool, now time.Time) {
	for id := range t.sessions {
		if !there[id] {
			delete(t.sessions, id)
		}
	}
	t.note(now)
}

// hearAgain forgets how long sessions were silent: who could not write itself cannot tell the dead from those who could not either.
func (t *table) hearAgain(now time.Time) {
	for _, s := range t.sessions {
		s.at = now
	}
}

func (t *table) end(id string, now time.Time) {
	delete(t.sessions, id)
	t.note(now)
}

// note keeps since when each partition is free.
func (t *table) note(now time.Time) {
	for p := range t.partitions {
		l := &t.partitions[p]
		switch held := t.sessions[l.holder] != nil; {
		case held:
			l.free = time.Time{}
		case l.free.IsZero():
			l.free = now
		}
	}
}

// step is something to do in the bucket, by compare-and-set on revision.
type step struct {
	fence     string // end this session
	take      bool   // take this partition
	yield     bool   // give this one back
	partition int
	revision  uint64
}

// patience is after what part of its life a relay takes what is another one's to take.
const patience = 2

// steps are what a relay with this session should do now. Each relay that sees the same does its own part of one
// whole: what is free goes to those who hold least, and while one holds two more than another, it gives one back. ending
// are those that it is giving back already.
func (t *table) steps(me string, life time.Duration, now time.Time, ending map[int]bool) (out []step) {
	for id, s := range t.sessions {
		if id != me && now.Sub(s.at) > s.life() {
			out = append(out, step{fence: id, revision: s.revision})
		}
	}
	slices.SortFunc(out, func(a, b step) int { return strings.Compare(a.fence, b.fence) })
	self := t.sessions[me]
	if self == nil || self.Leaving {
		return out
	}
	load := t.load()
	free := false
	for p := range t.partitions {
		l := &t.partitions[p]
		if l.free.IsZero() {
			continue
		}
		free = true
		least := slices.MinFunc(load, func(a, b share) int { return cmp.Or(cmp.Compare(a.n, b.n), strings.Compare(a.id, b.id)) })
		load[slices.Index(load, least)].n++
		if least.id == me || now.Sub(l.free) > life/patience {
			out = append(out, step{take: true, partition: p, revision: l.revision})
		}
	}
	if !free {
		out = append(out, t.yields(me, load, ending)...)
	}
	return out
}

// share is how many partitions a relay holds.
type share struct {
	id string
	n  int
}

// load counts what those hold that do not leave.
func (t *table) load() []share {
	var out []share
	for id, s := range t.sessions {
		if s.Leaving {
			continue
		}
		n := 0
		for p := range t.partitions {
			if t.partitions[p].holder == id {
				n++
			}
		}
		out = append(out, share{id, n})
	}
	slices.SortFunc(out, func(a, b share) int { return strings.Compare(a.id, b.id) })
	return out
}

// yields is the partition to give back, if this relay is the one to do so: one at a time, over all relays.
func (t *table) yields(me string, load []share, ending map[int]bool) []step {
	most, least := load[0], load[0]
	for _, s := range load[1:] {
		if s.n > most.n {
			most = s
		}
		least.n = min(least.n, s.n)
	}
	if most.id != me || most.n-least.n < 2 {
		return nil
	}
	last := -1
	for p := range t.partitions {
		if t.partitions[p].holder != me {
			continue
		}
		if ending[p] {
			return nil
		}
		last = p
	}
	return []step{{yield: true, partition: last}}
}

// Owner is who holds a partition.
type Owner struct {
	Partition int    `json:"partition"`
	Owner     string `json:"owner,omitempty"` // a relay's name; none: nobody holds it
	Here      bool   `json:"here,omitempty"`  // this process does
}

// owners are those of all partitions; a session that outlived its life counts for nobody.
func (t *table) owners(me string, now time.Time) []Owner {
	out := make([]Owner, len(t.partitions))
	for p := range out {
		out[p].Partition = p
		id := t.partitions[p].holder
		if s := t.sessions[id]; s != nil && now.Sub(s.at) <= s.life() {
			out[p].Owner, out[p].Here = cmp.Or(s.Name, id), id == me
		}
	}
	return out
}
