package owner

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
)

// sample is a checkpoint with each kind of entry.
func sample() []byte {
	s := New(2)
	for i, o := range []relay.Outcome{
		{Seq: 3, EndpointID: "ep_a", State: relay.Parked, Deadline: at(60), Attempts: 2},
		{Seq: 4, EndpointID: "ep_a", State: relay.Retrying, Deadline: at(60), Due: at(7).Add(123 * time.Nanosecond)},
		{Seq: 4, EndpointID: "ep_b", State: relay.Held},
		{Seq: 9, EndpointID: "ep_b", State: relay.Pending, Attempts: 70000,
			Progress: relay.Progress{Digest: [32]byte{1, 2, 3}, Next: 2, Total: 5}},
		{Seq: 9, EndpointID: "ep_c", State: relay.Delivered},
	} {
		s.Route(o.Seq, 1)
		s.Apply(uint64(i+1), &o, true, o.State == relay.Pending)
		s.Whole()
	}
	s.Route(10, 2)
	s.Defer(Key{10, "ep_d"}, at(60))
	return s.Checkpoint()
}

func TestCheckpointKeeps(t *testing.T) {
	t.Parallel()
	data := sample()
	s, foldFrom, err := Restore(data)
	if err != nil {
		t.Fatal(err)
	}
	if s.Cursor() != 9 || s.Folded() != 5 || foldFrom != 5 {
		t.Fatalf("cursor %d, folded %d, fold from %d", s.Cursor(), s.Folded(), foldFrom)
	}
	if e, ok := s.Get(Key{9, "ep_b"}); !ok || e.Attempts != 65535 || e.Progress.Next != 2 || e.Progress.Digest[2] != 3 || e.Status != Ready {
		t.Fatalf("%+v", e)
	}
	if due := s.NextDue(); !due.Equal(at(7).Add(123)) {
		t.Fatal(due)
	}
	if _, ok := s.Get(Key{10, "ep_d"}); ok {
		t.Fatal("a deferred delivery is in the checkpoint: it would be there twice once its event is routed again")
	}
	if again := s.Checkpoint(); !bytes.Equal(again, data) {
		t.Fatal("what was restored is written otherwise")
	}
}

func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	data := sample()
	for n := range data {
		if _, _, err := Restore(data[:n]); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("the first %d of %d bytes: %v", n, len(data), err)
		}
	}
	refuse := func(name string, b []byte) {
		t.Helper()
		if _, _, err := Restore(b); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("%s: %v", name, err)
		}
	}
	numbers := func(n ...uint64) []byte {
		b := []byte{checkpointVersion}
		for _, v := range n {
			b = binary.AppendUvarint(b, v)
		}
		return b
	}
	const entry = "\x05\x01\x00" // sequence 5, deadline 1, Ready
	refuse("more behind", append(bytes.Clone(data), 0))
	refuse("another version", append([]byte{2}, data[1:]...))
	refuse("fold from behind folded", numbers(1, 9, 8, 0))
	refuse("a count without an end", numbers(1, 1, 1, 1<<62))
	refuse("an id without an end", numbers(1, 1, 1, 1, 1<<62))
	refuse("no id", append(numbers(1, 1, 1, 1, 0, 1), entry...))
	refuse("no entries", append(numbers(1, 1, 1, 1, 1), 'a', 0))
	refuse("ids out of order", []byte("\x01\x01\x01\x01\x02\x01b\x01"+entry+"\x01a\x01"+entry))
	refuse("one sequence twice", []byte("\x01\x01\x01\x01\x01\x01a\x02"+entry+"\x00\x01\x00"))
	refuse("a status that nothing has", []byte("\x01\x01\x01\x01\x01\x01a\x01\x05\x01\x03"))
	refuse("a number in a longer form", []byte("\x01\x81\x00\x01\x01\x00"))
	if _, _, err := Restore([]byte("\x01\x01\x01\x01\x01\x01a\x01" + entry)); err != nil {
		t.Errorf("the least one: %v", err)
	}
}

// What Restore takes is written again byte for byte, and what it refuses neither panics nor costs memory.
func FuzzRestore(f *testing.F) {
	f.Add(sample())
	f.Add(New(0).Checkpoint())
	f.Add(New(1 << 40).Checkpoint())
	f.Add([]byte("\x01\x01\x01\x01\x01\x01a\x01\x05\x01\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, _, err := Restore(b)
		if err != nil {
			if !errors.Is(err, ErrCheckpoint) {
				t.Fatal(err)
			}
			return
		}
		again := s.Checkpoint()
		// FoldFrom catches up with Folded in a state that has nothing above its cursor.
		if _, from, err := Restore(again); err != nil || from != s.Folded() {
			t.Fatalf("written again it is refused: %v", err)
		}
		if withoutFloor(again) != withoutFloor(b) {
			t.Fatal("two forms of one state")
		}
	})
}

// withoutFloor is a checkpoint without its third field.
func withoutFloor(b []byte) string {
	_, n := binary.Uvarint(b[1:])
	_, m := binary.Uvarint(b[1+n:])
	return string(b[:1+n]) + string(b[1+n+m:])
}
