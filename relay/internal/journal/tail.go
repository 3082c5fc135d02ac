package journal

import (
	"sort"
	"sync"
)

// tail keeps a log's newest records in memory, for those who read right behind its writer: what this process wrote itself it
// need not ask the server for. Only the embedded server has one, for only there nobody else writes.
//
// It holds consecutive sequences, as many as its bound has room for, and gives those alone that are durable: the
// caller says up to where that is so. It never says that a record is not in the log; what it does not have is for the server to say.
type tail struct {
	mu      sync.Mutex
	bound   int64
	bytes   int64
	first   uint64 // the sequence of records[0]
	records []Message
	life    int // of the writer whose records are taken
}

// newTail is for the records from seq on.
func newTail(seq uint64, bound int64) *tail { return &tail{first: seq, bound: bound} }

// tailRecord is what a record counts beside its bytes.
const tailRecord = 64

// restart forgets everything for another writer, whose first record is the one at seq, and takes none of the former ones' any more.
func (t *tail) restart(seq uint64) (life int) {
	if t == nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.first, t.records, t.bytes = seq, nil, 0
	t.life++
	return t.life
}

// add takes a record that the log has, or will have if nothing fails. One that does not follow the last begins anew.
func (t *tail) add(life int, m Message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if life != t.life {
		return
	}
	if m.Seq != t.first+uint64(len(t.records)) {
		t.first, t.records, t.bytes = m.Seq, nil, 0
	}
	t.records = append(t.records, m)
	t.bytes += int64(len(m.Payload)) + tailRecord
	n := 0
	for ; t.bytes > t.bound && n < len(t.records); n++ {
		t.bytes -= int64(len(t.records[n].Payload)) + tailRecord
		t.records[n] = Message{}
	}
	t.records = t.records[n:] // append moves what is left when it runs out of room
	t.first += uint64(n)
}

// covers tells whether everything from seq on is or will be here.
func (t *tail) covers(seq uint64) bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return seq >= t.first
}

// from appends the records from seq up to upTo, at most as many as into has room for; none where the first of them is not here.
func (t *tail) from(seq, upTo uint64, into []Message) []Message {
	t.mu.Lock()
	defer t.mu.Unlock()
	if seq < t.first {
		return into
	}
	for ; seq <= upTo && seq-t.first < uint64(len(t.records)) && len(into) < cap(into); seq++ {
		into = append(into, t.records[seq-t.first])
	}
	return into
}

// pick splits ascending sequences into those that lie before what is here and the records of the others, as far as they are durable.
func (t *tail) pick(seqs []uint64, upTo uint64) (before []uint64, found []Message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := sort.Search(len(seqs), func(i int) bool { return seqs[i] >= t.first })
	for _, seq := range seqs[n:] {
		if seq > upTo {
			break
		}
		if at := seq - t.first; at < uint64(len(t.records)) {
			found = append(found, t.records[at])
		}
	}
	return seqs[:n], found
}

// erase forgets what is at and before seq: a record there is no longer in the log.
func (t *tail) erase(seq uint64) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.records) > 0 && t.first <= seq {
		t.bytes -= int64(len(t.records[0].Payload)) + tailRecord
		t.records[0] = Message{}
		t.records = t.records[1:]
		t.first++
	}
}
