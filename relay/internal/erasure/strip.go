package erasure

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/record"
)

// chunks yields parts of a slice, each of at most n.
func chunks[T any](all []T, n int) iter.Seq[[]T] { return slices.Chunk(all, n) }

// What an outcome may hold of a person: what a receiver answered, which may repeat what it was sent, and the digests of
// what was sent, by which who guesses it can tell. personal says whether it holds any of it.
func personal(o *relay.Outcome) bool {
	return o.Progress.Digest != [32]byte{} || o.Attempt != nil && (len(o.Attempt.ResponseBody) > 0 || o.Attempt.BodySHA256 != "")
}

func withoutPersonal(o relay.Outcome) relay.Outcome {
	o.Progress.Digest = [32]byte{}
	if o.Attempt != nil {
		bare := *o.Attempt
		bare.ResponseBody, bare.BodySHA256 = nil, ""
		o.Attempt = &bare
	}
	return o
}

// strip erases from OUTCOMES and the view what may be personal of the deliveries of some events, none of which is open. A
// record of OUTCOMES holds what happened within a moment, to other deliveries too, and a log's record cannot be changed: so
// all of it is told once more at the end of the log, as relay.Outcome.Retold, without what is to go, which the view follows; then
// no start of the owner may need the record any more; and then it is erased.
func (w *work) strip(ctx context.Context, events []relay.Event) error {
	for {
		s, err := w.collect(ctx, events)
		if err != nil {
			return err
		}
		if len(s.records) == 0 {
			return nil
		}
		if err := w.replace(ctx, s); err != nil {
			return err
		}
		first, last := accepted(events)
		if err := w.View.Scrub(ctx, first, last); err != nil {
			return fmt.Errorf("view: %w", err)
		}
		if !s.more {
			return nil
		}
	}
}

// accepted is when the first and the last of some events was accepted.
func accepted(events []relay.Event) (first, last time.Time) {
	for i := range events {
		at := events[i].AcceptTime
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	return first, last
}

// stripping is some records of OUTCOMES that are to go, with all they tell.
type stripping struct {
	erased  map[uint64]bool // sequences of events
	records []told
	latest  map[deliveryKey]lastWord
	more    bool
}

type told struct {
	seq      uint64
	outcomes []relay.Outcome
}

// lastWord is the last word on a delivery, the sequence as of which it is that, and that of the record that says so.
type lastWord struct {
	seq, in uint64
	outcome relay.Outcome
}

type deliveryKey struct {
	seq      uint64
	endpoint string
}

// recordsAtOnce bounds the records of one stripping: each is at most some 100 KiB.
const recordsAtOnce = 128

// collect reads OUTCOMES for records that hold something personal of some events, and for what was last said of
// each delivery in them.
func (w *work) collect(ctx context.Context, events []relay.Event) (*stripping, error) {
	s := &stripping{erased: make(map[uint64]bool, len(events)), latest: map[deliveryKey]lastWord{}}
	for i := range events {
		s.erased[events[i].Seq] = true
	}
	log := w.Journal.Outcomes(w.partition)
	st, err := log.State(ctx)
	if err != nil {
		return nil, err
	}
	err = log.Range(ctx, st.First, st.Last, func(m journal.Message) error {
		outcomes, err := record.DecodeOutcomes(m.Payload)
		if err != nil {
			return fmt.Errorf("outcomes at %d: %w", m.Seq, err)
		}
		s.add(m.Seq, outcomes)
		return nil
	})
	return s, err
}

func (s *stripping) add(seq uint64, outcomes []relay.Outcome) {
	wanted := slices.ContainsFunc(outcomes, func(o relay.Outcome) bool { return s.erased[o.Seq] && personal(&o) })
	if wanted && len(s.records) == recordsAtOnce {
		s.more, wanted = true, false
	}
	if wanted {
		s.records = append(s.records, told{seq, outcomes})
	}
	for _, o := range outcomes {
		k := deliveryKey{o.Seq, o.EndpointID}
		as := seq
		if o.Retold != 0 {
			as = o.Retold
		}
		if last, known := s.latest[k]; wanted && !known || known && as >= last.seq {
			s.latest[k] = lastWord{as, seq, o}
		}
	}
}

// retold is what the records tell, as of the last word on each delivery. What only says what a later record says again is left out.
func (s *stripping) retold() []relay.Outcome {
	gone := make(map[uint64]bool, len(s.records))
	for _, r := range s.records {
		gone[r.seq] = true
	}
	var out []relay.Outcome
	for _, r := range s.records {
		for _, o := range r.outcomes {
			last := s.latest[deliveryKey{o.Seq, o.EndpointID}]
			if o.Attempt == nil && !gone[last.in] {
				continue
			}
			again := last.outcome
			again.Attempt, again.Retold = o.Attempt, last.seq
			if s.erased[o.Seq] {
				again = withoutPersonal(again)
			}
			out = append(out, again)
		}
	}
	return out
}

// retellAtOnce bounds one question to the owner; an outcome is at most some 8 KiB.
const retellAtOnce = 16

// replace tells again and then erases the records.
func (w *work) replace(ctx context.Context, s *stripping) error {
	for part := range chunks(s.retold(), retellAtOnce) {
		err := w.persist(ctx, "the owner of the partition does not answer", func() error {
			return w.Owners.Retell(ctx, w.id, w.tenant, part)
		})
		if err != nil {
			return err
		}
	}
	log := w.Journal.Outcomes(w.partition)
	st, err := log.State(ctx)
	if err != nil {
		return err
	}
	err = w.persist(ctx, "the owner of the partition has no checkpoint yet that stands past it", func() error {
		return w.Owners.PassOutcomes(ctx, w.id, w.tenant, s.records[len(s.records)-1].seq)
	})
	if err != nil {
		return err
	}
	err = w.persist(ctx, "the view does not follow", func() error {
		at, err := w.View.Position(ctx, w.partition)
		if err == nil && at < st.Last {
			err = fmt.Errorf("the view stands at %d of %d", at, st.Last)
		}
		return err
	})
	if err != nil {
		return err
	}
	for part := range chunks(s.records, atOnce) {
		seqs := make([]uint64, len(part))
		for i := range part {
			seqs[i] = part[i].seq
		}
		if err := log.SecureDelete(ctx, seqs...); err != nil {
			return err
		}
	}
	return nil
}
