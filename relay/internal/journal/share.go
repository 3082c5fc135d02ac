package journal

import (
	"time"

	"github.com/sealpost/sealpost/relay/internal/turn"
)

// room is a bound that shares divide. One share alone may fill it. A quarter more is kept for the others: a share may take no more
// than four times what it leaves free, so that one which floods never takes what another would begin with.
type room struct{ used, most int64 }

// fits tells whether a share that has so much may take size more. One thing fits into a room that is empty, whatever its size.
func (r *room) fits(has, size int64) bool {
	if r.used == 0 {
		return true
	}
	return has+size <= 4*(r.most+r.most/4-r.used-size)
}

// shares are who publishes to one partition, each with what it has waiting; Events.mu guards them.
type shares struct {
	of          map[string]*share
	queue       turn.Queue[*pending] // to be written
	held        turn.Queue[*pending] // to be written, of those who flood
	hold        hold
	uncommitted room // bytes queued, written and not yet answered
	unread      room // events accepted and not read, where the reader says what it has
	unreadBytes room
	last        string    // who came last
	crowded     time.Time // when somebody else came than had come last
	swept       time.Time // when every share's unread events were looked through last
}

// share is one of those who publish. It is forgotten when nothing of it waits.
type share struct {
	uncommitted int64
	waiting     int       // events that uncommitted are the bytes of
	floods      bool      // what it has queued is in shares.held
	flooded     time.Time // when it had too much waiting last
	unread      []kept    // oldest first
	unreadBytes int64
}

// kept is an accepted event that waits for the reader.
type kept struct {
	seq  uint64
	size int64
}

const (
	// crowdedFor is how long groups stay small after more than one share was seen: whoever comes while a group is
	// being written waits for the whole of it.
	crowdedFor   = 10 * time.Second
	crowdedMax   = 256
	crowdedBytes = 1 << 20
	// turnCost is what an event costs its share beside its bytes.
	turnCost = 1 << 10
	// readCost is about what an event that was read takes in memory beside its bytes.
	readCost = 512
	// sweepEvery bounds how often all shares are looked through for what was read meanwhile.
	sweepEvery = 100 * time.Millisecond
)

func newShares(o Options) shares {
	return shares{
		of: map[string]*share{}, uncommitted: room{most: o.MaxUncommittedBytes},
		unread: room{most: int64(o.MaxUnread)}, unreadBytes: room{most: o.MaxUnreadBytes},
	}
}

// enter counts an event that is to be written, or says when to try again. read is the first sequence that was not read; 0: that
// is not known. behind is how many events of anybody's, accepted here or elsewhere, were not.
func (s *shares) enter(p *pending, read uint64, behind int64, now time.Time) error {
	one := s.of[p.entry.Share]
	if one == nil {
		one = &share{}
	}
	if read > 0 && !s.readable(one, p, read, behind) {
		return &BusyError{RetryAfter: 250 * time.Millisecond}
	}
	if !s.uncommitted.fits(one.uncommitted, p.size()) {
		return &BusyError{RetryAfter: 100 * time.Millisecond}
	}
	s.of[p.entry.Share] = one
	one.uncommitted += p.size()
	one.waiting++
	s.uncommitted.used += p.size()
	if p.entry.Share != "" {
		s.watch(p.entry.Share, one, now)
	}
	return nil
}

// push queues an event that entered.
func (s *shares) push(p *pending) {
	if s.of[p.entry.Share].floods {
		s.held.Push(p.entry.Share, p)
	} else {
		s.queue.Push(p.entry.Share, p)
	}
}

// readable tells whether the share may have one more event that was not read.
func (s *shares) readable(one *share, p *pending, read uint64, behind int64) bool {
	s.read(one, read-1)
	fits := func() bool {
		events := room{used: max(s.unread.used, behind), most: s.unread.most}
		return events.fits(int64(len(one.unread)), 1) && s.unreadBytes.fits(one.unreadBytes, p.size()+readCost)
	}
	if fits() {
		return true
	}
	if time.Since(s.swept) < sweepEvery {
		return false
	}
	s.swept = time.Now()
	for key, other := range s.of {
		s.read(other, read-1)
		s.forget(key, other)
	}
	return fits()
}

// group takes the next to be written, by turns, within the bounds of a group, and tells whose they are. Where it takes none, wait is how
// long until it would although nothing happens; 0: it would not. A hurry holds nobody back.
func (s *shares) group(now time.Time, hurry bool) (items []*pending, of whose, wait time.Duration) {
	b := bounds{groupMax, groupBytes}
	if now.Sub(s.crowded) < crowdedFor {
		b = bounds{crowdedMax, crowdedBytes}
	}
	items = b.take(&s.queue, make([]*pending, 0, min(s.queue.Len()+s.held.Len(), b.events)))
	switch {
	case s.held.Len() == 0:
		return items, gentle, 0
	case hurry || !s.hold.beside(s, now):
		return b.take(&s.held, items), anyones, 0
	case !s.hold.due(now, len(items) > 0):
		return items, gentle, s.hold.wait(now)
	}
	s.hold.busy = true
	b = s.hold.bounds()
	return b.take(&s.held, items), flood, 0
}

// bounds are those of a group.
type bounds struct {
	events int
	bytes  int64
}

// take appends what comes next in a queue, as far as the bounds allow: one event in any case where there is nothing yet.
func (b *bounds) take(q *turn.Queue[*pending], items []*pending) []*pending {
	for b.events > 0 {
		_, p, ok := q.Next()
		if !ok || len(items) > 0 && p.size() > b.bytes {
			break
		}
		b.events--
		b.bytes -= p.size()
		q.Pop(p.size() + turnCost)
		items = append(items, p)
	}
	return items
}

// answered takes back what waited for its sync.
func (s *shares) answered(p *pending) {
	one := s.of[p.entry.Share]
	one.uncommitted -= p.size()
	one.waiting--
	s.uncommitted.used -= p.size()
	s.forget(p.entry.Share, one)
}

// await counts an event as waiting for the reader.
func (s *shares) await(p *pending) {
	one := s.of[p.entry.Share]
	one.unread = append(one.unread, kept{p.ack.seq, p.size() + readCost})
	one.unreadBytes += p.size() + readCost
	s.unread.used++
	s.unreadBytes.used += p.size() + readCost
}

// read takes back what the reader has of a share, up to seq.
func (s *shares) read(one *share, seq uint64) {
	n := 0
	for ; n < len(one.unread) && one.unread[n].seq <= seq; n++ {
		one.unreadBytes -= one.unread[n].size
		s.unreadBytes.used -= one.unread[n].size
	}
	s.unread.used -= int64(n)
	if one.unread = one.unread[n:]; len(one.unread) == 0 {
		one.unread = nil
	}
}

func (s *shares) forget(key string, one *share) {
	if one.uncommitted == 0 && len(one.unread) == 0 {
		delete(s.of, key)
	}
}
