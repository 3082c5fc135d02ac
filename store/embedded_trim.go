package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sealpost/sealpost/relay"
)

// trimStep is how many records one step of Trim looks at; between steps, outcomes are applied.
const trimStep = 1000

// tally is how many bytes of records there are for each hour of accept time. Few writes read what they write over, so a
// count can come to be a little high; it is set right when the last record of its hour is gone.
type tally struct {
	by    map[uint64]int64
	total int64
}

func newTally() *tally { return &tally{by: map[uint64]int64{}} }

func (t *tally) set(hour uint64, n int64) {
	n = max(n, 0)
	t.total += n - t.by[hour]
	if n == 0 {
		delete(t.by, hour)
		return
	}
	t.by[hour] = n
}

func hourOf(accept uint64) uint64 { return accept / uint64(time.Hour) }

// Trim is part of relay.Ledger. Bytes are those of keys and values before compression. What is cut off by kill -9
// between two steps is done by the next call.
func (s *embedded) Trim(ctx context.Context, before time.Time, maxBytes int64) (int, error) {
	t := &trim{store: s, maxBytes: maxBytes, next: []byte{keyRecord}}
	if !before.IsZero() {
		t.before = sortable(before)
	}
	for !t.done {
		if err := s.enter(ctx); err != nil {
			return t.removed, err
		}
		err := t.step()
		s.leave()
		if err != nil {
			return t.removed, fmt.Errorf("trim: %w", err)
		}
	}
	return t.removed, nil
}

// trim is one call of Trim on its way from the oldest record up.
type trim struct {
	store    *embedded
	before   uint64
	maxBytes int64
	next     []byte // key to go on from
	freed    int64  // in this step
	removed  int
	done     bool
}

// step looks at the next records under the lock, and removes what is to go in one batch. The batch is not synced: a
// crash that forgets it leaves records that are trimmed again.
func (t *trim) step() error {
	s := t.store
	s.write.Lock()
	defer s.write.Unlock()
	w := s.newWriter()
	defer w.close()
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: t.next, UpperBound: []byte{keyRecord + 1}})
	if err != nil {
		return err
	}
	removed, looked := 0, 0
	ok := it.First()
	for ; ok && err == nil && looked < trimStep; ok = it.Next() {
		at, sound := parsePlace(it.Key()[1:])
		if !sound {
			err = errRecord
			break
		}
		if at.accept >= t.before && !t.over(w) {
			t.done = true
			break
		}
		var gone bool
		gone, err = t.consider(w, at, it)
		if gone {
			removed++
		}
		looked++
	}
	if !ok {
		t.done = true
	} else if err == nil {
		t.next = append([]byte(nil), it.Key()...)
	}
	if err = errors.Join(err, it.Close()); err != nil {
		return err
	}
	if err := w.commit(pebble.NoSync); err != nil {
		return err
	}
	t.removed += removed
	if !t.done {
		return nil
	}
	return t.settle()
}

// over tells whether the records that are left, less what w removes, are more than the bound.
func (t *trim) over(w *writer) bool {
	if t.maxBytes <= 0 {
		return false
	}
	total := t.store.bytes.total
	for _, n := range w.bytes {
		total += n
	}
	return total > t.maxBytes
}

// consider removes the record that it stands on if it is settled or of an earlier life; gone tells the former.
func (t *trim) consider(w *writer, at place, it *pebble.Iterator) (gone bool, err error) {
	value, err := it.ValueAndErr()
	if err != nil {
		return false, err
	}
	now, err := t.store.pointer(t.store.db, at.id)
	if err != nil && !errors.Is(err, errRecord) {
		return false, err
	}
	counts := now != nil && *now == at.accept
	r, err := decodeRecord(at.id, value)
	if err != nil { // nothing can be told of it, and nobody can read it
		w.count(at.accept, -int64(len(value)))
		return false, w.delete(it.Key())
	}
	if !counts {
		return false, w.drop(&r, false)
	}
	if !r.State.Terminal() {
		return false, nil
	}
	if r.code() != codeDelivered && r.code() != codeUnmatched {
		if err := w.dropState(&r, at); err != nil {
			return false, err
		}
		w.marks = append(w.marks, mark{at.id, false})
	}
	return true, w.drop(&r, true)
}

// settle sets the counts of hours of which no record is left to nothing.
func (t *trim) settle() error {
	s := t.store
	w := s.newWriter()
	defer w.close()
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyRecord}, UpperBound: []byte{keyRecord + 1}})
	if err != nil {
		return err
	}
	for _, hour := range slices.Sorted(maps.Keys(s.bytes.by)) {
		from := hour * uint64(time.Hour)
		if !it.SeekGE(binary.BigEndian.AppendUint64([]byte{keyRecord}, from)) {
			w.bytes[hour] = -s.bytes.by[hour]
			continue
		}
		if at, sound := parsePlace(it.Key()[1:]); sound && hourOf(at.accept) != hour {
			w.bytes[hour] = -s.bytes.by[hour]
		}
	}
	if err := it.Close(); err != nil {
		return err
	}
	return w.commit(pebble.NoSync)
}

var _ relay.Ledger = (*embedded)(nil)
