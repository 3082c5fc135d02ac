package store

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sealpost/sealpost/relay"
)

// writer gathers one batch, and what it changes of the counts in memory, which take it over only once it is on disk.
type writer struct {
	store *embedded
	batch *pebble.Batch
	bytes map[uint64]int64 // by hour: what is added
	marks []mark
	key   []byte
	value []byte
	// records finds what a group writes over: it lies close together and in order, so that moving up costs a fraction of a get.
	// Opened when first needed.
	records *pebble.Iterator
}

func (s *embedded) newWriter() *writer {
	return &writer{store: s, batch: s.db.NewBatch(), bytes: map[uint64]int64{}}
}

// close lets go of the batch, committed or not.
func (w *writer) close() error {
	err := w.batch.Close()
	if w.records != nil {
		err = errors.Join(err, w.records.Close())
	}
	return err
}

// mark is an id that came into the state indexes, or left them.
type mark struct {
	id  string
	add bool
}

func (w *writer) set(key, value []byte) error { return w.batch.Set(key, value, nil) }

func (w *writer) delete(key []byte) error { return w.batch.Delete(key, nil) }

func (w *writer) commit(how *pebble.WriteOptions) error {
	for hour, n := range w.bytes {
		key := binary.BigEndian.AppendUint64([]byte(bytesPrefix), hour)
		now := w.store.bytes.by[hour] + n
		if now <= 0 {
			if err := w.delete(key); err != nil {
				return err
			}
			continue
		}
		if err := w.set(key, binary.BigEndian.AppendUint64(nil, uint64(now))); err != nil {
			return err
		}
	}
	if err := w.batch.Commit(how); err != nil {
		return err
	}
	for hour, n := range w.bytes {
		w.store.bytes.set(hour, w.store.bytes.by[hour]+n)
	}
	for _, m := range w.marks {
		if m.add {
			w.store.open.add(m.id)
		} else {
			w.store.open.remove(m.id)
		}
	}
	return nil
}

// put writes a change over what is stored of its delivery.
func (w *writer) put(c *change) error {
	r := c.record()
	first, beside := c.split()
	r.first = first
	at := place{sortable(r.AcceptTime), c.id}

	var old *record
	if !w.fresh(c, len(first) > 0, beside) {
		found, err := w.before(at)
		if err != nil && !errors.Is(err, errRecord) {
			return err
		}
		// A record that cannot be read is written over: the newest outcome tells the whole state.
		old = found
	}
	if c.retold && old != nil {
		switch {
		case sortable(old.AcceptTime) != at.accept:
			return nil // another life of it
		case old.sequence > r.sequence:
			r = *old
			if len(first) > 0 {
				r.first = first
			}
		}
		if len(first) > 0 { // it may have been too large to be part of the record
			if err := w.delete(w.attemptKey(at, 1)); err != nil {
				return err
			}
		}
	}
	if old != nil {
		same := sortable(old.AcceptTime) == at.accept
		if same && len(r.first) == 0 {
			r.first = old.first
		}
		if err := w.unindex(old, same && old.EventType == r.EventType, &r); err != nil {
			return err
		}
		if !same { // an earlier life, which goes with its attempts
			if err := w.drop(old, false); err != nil {
				return err
			}
			old = nil
		}
	}
	w.value = appendRecord(w.value[:0], &r)
	if err := w.set(w.recordKey(at), w.value); err != nil {
		return err
	}
	w.count(at.accept, int64(len(w.value)))
	if old != nil {
		w.count(at.accept, -int64(old.size))
	}
	for _, a := range beside {
		if err := w.putAttempt(at, a); err != nil {
			return err
		}
	}
	return w.index(&r, at, old)
}

// before is the record that counts of a delivery whose next one goes to a place, or nil. It is mostly at that place: a record that
// can be read and that no pointer leads to any more is removed with the pointer, so that one which is there is the one that counts.
func (w *writer) before(at place) (*record, error) {
	if found, err := w.recordAt(at); err == nil && found != nil {
		return found, nil
	} else if err != nil && !errors.Is(err, errRecord) {
		return nil, err
	}
	return w.store.current(w.store.db, at.id)
}

func (w *writer) recordAt(at place) (*record, error) {
	if w.records == nil {
		var err error
		if w.records, err = w.store.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyRecord}, UpperBound: []byte{keyRecord + 1}}); err != nil {
			return nil, err
		}
	}
	key := w.recordKey(at)
	if !w.records.SeekGE(key) {
		return nil, w.records.Error()
	}
	if !bytes.Equal(w.records.Key(), key) {
		return nil, nil
	}
	value, err := w.records.ValueAndErr()
	if err != nil {
		return nil, err
	}
	// What the record keeps of its value, its first attempt, is written again before the iterator moves.
	r, err := decodeRecord(at.id, value)
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// fresh tells that a change needs nothing of what may be stored before: its delivery was delivered at the first attempt, which
// is in hand, and is in no state index; so each key that it has is one that is written now. Nor can anything be
// needed of an event that nobody was to have.
func (w *writer) fresh(c *change, embedded bool, beside []keptAttempt) bool {
	code, _ := stateCode(c.last.State)
	if c.retold {
		return false
	}
	if code == codeUnmatched {
		return true
	}
	return code == codeDelivered && c.last.Attempts <= 1 && embedded && len(beside) == 0 && !w.store.open.may(c.id)
}

// putAttempt writes an attempt beside its record, and removes the one that is thereby too many. Attempts are numbered
// without gaps; a gap costs attempts too many on disk, which the reader leaves out.
func (w *writer) putAttempt(at place, a keptAttempt) error {
	if err := w.set(w.attemptKey(at, a.number), a.data); err != nil {
		return err
	}
	w.count(at.accept, int64(len(w.key)+len(a.data)))
	if a.number > maxBeside+1 {
		return w.delete(w.attemptKey(at, a.number-maxBeside))
	}
	return nil
}

// index writes the entries that lead to r. What is in key and value alike before is not written again.
func (w *writer) index(r *record, at place, old *record) error {
	if old == nil {
		if err := w.set(w.pointerKey(at), binary.BigEndian.AppendUint64(w.value[:0], at.accept)); err != nil {
			return err
		}
		w.count(at.accept, indexBytes(r))
	}
	code := r.code()
	if code == codeUnmatched {
		return nil
	}
	if old == nil {
		if err := w.set(w.eventKey(r, at), append(w.value[:0], r.Tenant...)); err != nil {
			return err
		}
	}
	w.value = append(append(w.value[:0], code), r.EventType...)
	for _, key := range [...]func(*record, place) []byte{w.tenantKey, w.endpointKey, w.typeKey} {
		if err := w.set(key(r, at), w.value); err != nil {
			return err
		}
	}
	if code == codeDelivered {
		return nil
	}
	for _, key := range [...]func(*record, place) []byte{w.stateKey, w.bothKey, w.allKey} {
		if err := w.set(key(r, at), w.value); err != nil {
			return err
		}
	}
	if old == nil || old.code() == codeDelivered {
		w.marks = append(w.marks, mark{at.id, true})
	}
	return nil
}

// unindex removes those of old's entries that the record next does not write anew. keep: its place and type
// are next's too.
func (w *writer) unindex(old *record, keep bool, next *record) error {
	at := place{sortable(old.AcceptTime), old.ID}
	if old.code() != codeDelivered && (!keep || old.State != next.State) {
		if err := w.dropState(old, at); err != nil {
			return err
		}
	}
	moved := sortable(next.AcceptTime) != at.accept
	if old.code() != codeDelivered && (moved || next.code() == codeDelivered) {
		w.marks = append(w.marks, mark{old.ID, false})
	}
	if !keep && !moved {
		return w.delete(w.typeKey(old, at))
	}
	return nil
}

func (w *writer) dropState(r *record, at place) error {
	for _, key := range [...]func(*record, place) []byte{w.stateKey, w.bothKey, w.allKey} {
		if err := w.delete(key(r, at)); err != nil {
			return err
		}
	}
	return nil
}

// drop removes all that is stored of a record but its state entries, which are unindex's; the pointer too, if it
// leads to it. It tells nobody that the bytes are gone but the count.
func (w *writer) drop(r *record, pointer bool) error {
	at := place{sortable(r.AcceptTime), r.ID}
	size := int64(r.size) + indexBytes(r)
	if err := w.delete(w.recordKey(at)); err != nil {
		return err
	}
	if pointer {
		if err := w.delete(w.pointerKey(at)); err != nil {
			return err
		}
	}
	if r.code() != codeUnmatched {
		for _, key := range [...]func(*record, place) []byte{w.eventKey, w.tenantKey, w.endpointKey, w.typeKey} {
			if err := w.delete(key(r, at)); err != nil {
				return err
			}
		}
		n, err := w.dropAttempts(at)
		if err != nil {
			return err
		}
		size += n
	}
	w.count(at.accept, -size)
	return nil
}

func (w *writer) dropAttempts(at place) (size int64, err error) {
	prefix := attemptPrefix(at)
	it, err := w.store.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: successor(prefix)})
	if err != nil {
		return 0, err
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		size += int64(len(it.Key()))
		value, valueErr := it.ValueAndErr()
		size += int64(len(value))
		err = errors.Join(valueErr, w.delete(it.Key()))
	}
	return size, errors.Join(err, it.Close())
}

// maxBeside is how many attempts are kept beside the first.
const maxBeside = relay.MaxAttemptsKept - 1

func (w *writer) count(accept uint64, n int64) { w.bytes[hourOf(accept)] += n }

// indexBytes is about what a record costs beside itself: its key and the entries that lead to it.
func indexBytes(r *record) int64 {
	id := len(r.ID) + 9
	if r.code() == codeUnmatched {
		return int64(2 * id)
	}
	return int64(6*id + 3*len(r.Tenant) + len(r.EndpointID) + len(r.EventID) + 4*len(r.EventType) + 8)
}

func appendPlace(b []byte, at place) []byte {
	return append(binary.BigEndian.AppendUint64(b, at.accept), at.id...)
}

func (w *writer) recordKey(at place) []byte {
	w.key = appendPlace(append(w.key[:0], keyRecord), at)
	return w.key
}

func (w *writer) pointerKey(at place) []byte {
	w.key = append(append(w.key[:0], keyPointer), at.id...)
	return w.key
}

func (w *writer) attemptKey(at place, number int) []byte {
	w.key = binary.BigEndian.AppendUint32(append(w.key[:0], attemptPrefix(at)...), uint32(number))
	return w.key
}

// attemptPrefix begins the keys of a delivery's attempts, and of no other delivery's.
func attemptPrefix(at place) []byte {
	b := binary.BigEndian.AppendUint64([]byte{keyAttempt}, at.accept)
	return appendText(b, at.id)
}

func (w *writer) tenantKey(r *record, at place) []byte {
	w.key = appendPlace(appendText(append(w.key[:0], keyTenant), r.Tenant), at)
	return w.key
}

func (w *writer) endpointKey(r *record, at place) []byte {
	w.key = appendPlace(appendText(append(w.key[:0], keyEndpoint), r.EndpointID), at)
	return w.key
}

func (w *writer) typeKey(r *record, at place) []byte {
	w.key = appendPlace(appendText(appendText(append(w.key[:0], keyType), r.Tenant), r.EventType), at)
	return w.key
}

func (w *writer) stateKey(r *record, at place) []byte {
	w.key = appendPlace(append(appendText(append(w.key[:0], keyState), r.Tenant), r.code()), at)
	return w.key
}

func (w *writer) bothKey(r *record, at place) []byte {
	w.key = appendPlace(append(appendText(append(w.key[:0], keyBoth), r.EndpointID), r.code()), at)
	return w.key
}

func (w *writer) allKey(r *record, at place) []byte {
	w.key = appendPlace(append(w.key[:0], keyAll, r.code()), at)
	return w.key
}

func (w *writer) eventKey(r *record, at place) []byte {
	w.key = appendPlace(appendText(append(w.key[:0], keyEvent), r.EventID), at)
	return w.key
}
