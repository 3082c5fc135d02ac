package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/partition"
	"github.com/sealpost/sealpost/relay/internal/record"
)

// What an endpoint never had is what EVENTS has and neither the view nor the owner knows a delivery of. For that to be right
// although the view lags, only events at or below the owner's cursor are looked at: each of their deliveries is recorded, at or below
// the outcome that the owner names with it, and the view is asked once it has that. What a second replay of the same endpoint would
// open in between is excluded by running one at a time. The view lets go of what is settled after the retention: events that
// are older, and kept for somebody else's sake, are left alone.

// scanned is how many events are read at once.
const scanned = 512

// searchPause is how long it waits for the owner to come to the end of what is asked for.
const searchPause = 100 * time.Millisecond

// lookForMissing opens the deliveries of the events asked for that the endpoint never had.
func (t *run) lookForMissing(ctx context.Context) error {
	if err := t.alone(ctx); err != nil {
		return err
	}
	defer t.leave()
	log := t.Journal.Events(t.partition)
	if t.at.Seq == 0 {
		st, err := log.State(ctx)
		if err != nil {
			return err
		}
		if t.at.Seq, err = log.OlderThan(ctx, st.First, st.Last, t.asked.After); err != nil {
			return err
		}
	}
	st, err := log.State(ctx)
	if err != nil {
		return err
	}
	end, err := log.OlderThan(ctx, t.at.Seq+1, max(st.Last, t.at.Seq), t.asked.Before)
	if err != nil {
		return err
	}
	t.at.Seq = max(t.at.Seq, st.First-1) // what was trimmed is gone
	for begin := t.at.Seq; t.at.Seq < end; {
		stand, err := t.Owner.Stand(ctx, t.partition)
		if err != nil {
			return err
		}
		last := min(end, stand.Cursor, t.at.Seq+scanned)
		if last <= t.at.Seq {
			if err := t.pause(ctx, searchPause); err != nil {
				return err
			}
			continue
		}
		if err := t.search(ctx, stand, last); err != nil {
			return err
		}
		t.progress.Fraction = max(t.progress.Fraction, min(.99, float64(t.at.Seq-begin)/float64(end-begin)))
		if err := t.note(ctx); err != nil {
			return err
		}
	}
	return nil
}

// alone waits until no other replay looks for what the endpoint misses.
func (t *run) alone(ctx context.Context) error {
	for !t.enter() {
		if err := t.job.Waits(ctx, "another replay looks for what this endpoint misses"); err != nil {
			return err
		}
		if err := t.pause(ctx, searchPause); err != nil {
			return err
		}
	}
	return nil
}

func (t *run) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.missing[t.asked.EndpointID] {
		return false
	}
	t.missing[t.asked.EndpointID] = true
	return true
}

func (t *run) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.missing, t.asked.EndpointID)
}

// search looks at the events up to last, of which the owner has recorded every delivery as it says.
func (t *run) search(ctx context.Context, stand partition.Standing, last uint64) error {
	var found []item
	oldest := t.Now().Add(-t.Retention)
	err := t.Journal.Events(t.partition).Range(ctx, t.at.Seq+1, last, func(m journal.Message) error {
		ev, err := record.DecodeEvent(m.Payload, m.Seq, m.Time)
		if err != nil {
			return err
		}
		if ev.Tenant != t.asked.Tenant || !t.asked.WantsType(ev.Type) || !t.asked.WantsTime(ev.AcceptTime) {
			return nil
		}
		if ev.AcceptTime.Before(oldest) {
			t.progress.Examined++
			t.progress.Skipped++
			return nil
		}
		found = append(found, item{ID: relay.DeliveryID(ev.Tenant, ev.ID, t.asked.EndpointID), Seq: ev.Seq})
		return nil
	})
	if err != nil {
		return fmt.Errorf("events: %w", err)
	}
	if found, err = t.unknown(ctx, found, stand.Outcomes); err != nil {
		return err
	}
	w := &walk{Endpoint: t.asked.EndpointID, Items: found}
	for len(w.Items) > 0 {
		if err := t.pause(ctx, time.Until(w.again)); err != nil {
			return err
		}
		if err := t.open(ctx, w); err != nil {
			return err
		}
	}
	t.at.Seq = last
	return nil
}

// open has the next of the missing deliveries opened.
func (t *run) open(ctx context.Context, w *walk) error {
	n, err := t.allowance(ctx, w)
	if err != nil {
		return err
	}
	asked := partition.Reopening{EndpointID: w.Endpoint, Missing: true}
	for _, i := range w.Items[:n] {
		asked.Items = append(asked.Items, partition.Ref{DeliveryID: i.ID, Seq: i.Seq})
	}
	taken, err := t.reopen(ctx, asked, w)
	if err != nil || taken == 0 {
		return err
	}
	t.at.Seq = w.Items[taken-1].Seq
	w.Items = w.Items[taken:]
	return t.note(ctx)
}

// unknown leaves out the deliveries that the view knows, once it has the outcomes up to a sequence.
func (t *run) unknown(ctx context.Context, all []item, upTo uint64) ([]item, error) {
	for {
		before, err := t.seeAll(ctx, upTo)
		if err != nil {
			return nil, err
		}
		var out []item
		for _, i := range all {
			switch _, err := t.Ledger.Delivery(ctx, t.asked.Tenant, i.ID); {
			case errors.Is(err, relay.ErrNotFound):
				out = append(out, i)
			case err != nil:
				return nil, fmt.Errorf("view: %w", err)
			}
		}
		after, err := t.seeAll(ctx, upTo)
		if err != nil {
			return nil, err
		}
		if after == before {
			had := int64(len(all) - len(out))
			t.progress.Examined += had
			t.progress.Skipped += had
			return out, nil
		}
	}
}
