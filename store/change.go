package store

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/sealpost/sealpost/relay"
)

// change is what a group of outcomes makes of one delivery, or of one unmatched event. A delivery whose event was
// accepted a second time, after its idempotency window, has another accept time and begins anew: no attempt of the
// earlier life is among the change's.
type change struct {
	id       string
	last     *relay.SequencedOutcome
	attempts []*relay.Attempt
	// retold tells that last is Outcome.Retold: what is stored already of a later state stays, but for the attempts.
	retold bool
}

// fold sums up the outcomes above position, one change a delivery, in the order in which deliveries first appear. The
// error is a caller's mistake: nothing that a log can hold gives one.
func fold(partition int, position, upTo uint64, outcomes []relay.SequencedOutcome) ([]change, error) {
	changes := make([]change, 0, len(outcomes))
	at := make(map[string]int, len(outcomes))
	before := uint64(0)
	for i := range outcomes {
		o := &outcomes[i]
		if o.Sequence < max(before, 1) || o.Sequence > upTo {
			return nil, fmt.Errorf("outcome %d: sequence %d is out of order", i, o.Sequence)
		}
		before = o.Sequence
		if o.Sequence <= position {
			continue
		}
		id, err := key(partition, o)
		if err != nil {
			return nil, fmt.Errorf("outcome at sequence %d: %w", o.Sequence, err)
		}
		n, seen := at[id]
		if !seen {
			n = len(changes)
			at[id] = n
			changes = append(changes, change{id: id})
		}
		c := &changes[n]
		if seen && sortable(c.last.AcceptTime) != sortable(o.AcceptTime) {
			if o.Retold != 0 {
				continue // of an earlier life
			}
			c.attempts = nil
		}
		if !seen || o.Retold == 0 || c.retold && o.Retold >= c.last.Retold {
			c.last, c.retold = o, o.Retold != 0
		}
		if o.Attempt != nil && o.Retold != 0 {
			c.attempts = slices.DeleteFunc(c.attempts, func(a *relay.Attempt) bool { return a.Number == o.Attempt.Number })
		}
		if o.Attempt != nil {
			c.attempts = append(c.attempts, o.Attempt)
		}
	}
	return changes, nil
}

// Bounds of the text that becomes part of a key, in bytes: far above what relay's own rules allow.
const maxKeyText = 512

// key is the id under which an outcome's record is kept: the delivery's, or one made of an unmatched event's.
func key(partition int, o *relay.SequencedOutcome) (string, error) {
	if partition != o.Partition {
		return "", fmt.Errorf("is of partition %d, not %d", o.Partition, partition)
	}
	if _, ok := stateCode(o.State); !ok {
		return "", fmt.Errorf("state %q is unknown", o.State)
	}
	if !relay.ValidTenant(o.Tenant) || o.EventID == "" || max(len(o.EventID), len(o.EndpointID), len(o.EventType), len(o.DeliveryID)) > maxKeyText {
		return "", fmt.Errorf("tenant, event, endpoint or type out of bounds")
	}
	if o.State == relay.Unmatched {
		return unmatchedID(o.Tenant, o.EventID), nil
	}
	if !deliveryID(o.DeliveryID) {
		return "", fmt.Errorf("delivery id out of bounds")
	}
	return o.DeliveryID, nil
}

// unmatchedID is the id of an unmatched event's record. It begins as no delivery's id does.
func unmatchedID(tenant, event string) string { return "\x00" + tenant + "\x00" + event }

func deliveryID(id string) bool { return id != "" && len(id) <= maxKeyText && id[0] != 0 }

// record is the record of c's last outcome, without the attempts.
func (c *change) record() record {
	o := c.last
	r := record{sequence: o.Sequence, DeliveryStatus: relay.DeliveryStatus{
		ID: c.id, Tenant: o.Tenant, EndpointID: o.EndpointID, EventID: o.EventID, EventType: o.EventType,
		EventTime: o.EventTime, AcceptTime: o.AcceptTime, Partition: o.Partition, Seq: o.Seq,
		State: o.State, Reason: o.Reason, Attempts: o.Attempts, Due: o.Due, Deadline: o.Deadline,
		Updated: o.Time, Redacted: o.Redacted, Progress: o.Progress,
	}}
	if o.Retold != 0 {
		r.sequence = o.Retold
	}
	if o.State == relay.Unmatched {
		r.EndpointID = ""
	}
	return r
}

// keptAttempt is an attempt that stands beside its record, encoded.
type keptAttempt struct {
	number int
	data   []byte
}

// split encodes c's attempts: the first one, where it is small, to be part of the record, and the others.
func (c *change) split() (first []byte, beside []keptAttempt) {
	for _, a := range c.attempts {
		data := appendAttempt(nil, a)
		if a.Number == 1 && len(data) <= maxEmbedded {
			first = data
			continue
		}
		beside = append(beside, keptAttempt{max(a.Number, 0), data})
	}
	return first, beside
}

// history puts a delivery's attempts together: the first and the latest others, oldest first.
func history(first []byte, beside [][]byte) ([]relay.Attempt, error) {
	attempts := make([]relay.Attempt, 0, len(beside)+1)
	if len(first) > 0 {
		beside = append(beside, first)
	}
	for _, data := range beside {
		a, err := decodeAttempt(data)
		if err != nil {
			return nil, err
		}
		attempts = append(attempts, a)
	}
	slices.SortStableFunc(attempts, func(a, b relay.Attempt) int { return cmp.Compare(a.Number, b.Number) })
	attempts = slices.CompactFunc(attempts, func(a, b relay.Attempt) bool { return a.Number == b.Number })
	if extra := len(attempts) - relay.MaxAttemptsKept; extra > 0 {
		attempts = slices.Delete(attempts, 1, 1+extra)
	}
	return attempts, nil
}
