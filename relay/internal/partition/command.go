package partition

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/owner"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// What an owner refuses.
var (
	// ErrBusy: the delivery is on its way already.
	ErrBusy = errors.New("the delivery is being sent")
	// ErrSettled: there is nothing left to cancel.
	ErrSettled = errors.New("the delivery is settled")
	// ErrGone: the event is no longer in the journal.
	ErrGone = errors.New("the event is no longer kept")
	// ErrUnavailable: nobody owns the partition now, or the owner is stopping.
	ErrUnavailable = errors.New("the partition has no owner now")
)

var errMismatch = fmt.Errorf("%w: another delivery stands there", ErrGone)

// reply answers a caller, once.
type reply func(error)

// command is what another goroutine asks of the loop.
type command struct {
	run    func(*loop)
	answer reply
}

// Ref says which delivery a command means, and where its event stands.
type Ref struct {
	DeliveryID string `json:"deliveryId"`
	EndpointID string `json:"endpointId"`
	Seq        uint64 `json:"seq"`
	Attempts   int    `json:"attempts"` // made so far, as the view has them; only for the attempts' numbers
	Redacted   int    `json:"redacted,omitempty"`
}

// request is a command on its way to the process that owns the partition.
type request struct {
	Kind     string `json:"kind"`
	Ref      Ref    `json:"ref,omitzero"`
	Tenant   string `json:"tenant,omitempty"`
	Revision uint64 `json:"revision,omitempty"`
	Erase    *erase `json:"erase,omitempty"`
	// Of a reopening.
	Reopening *Reopening `json:"reopening,omitempty"`
}

const (
	kindSettle = "settle"
	kindRetry  = "retry"
	kindCancel = "cancel"
	kindErase  = "erase"
	kindReopen = "reopen"
	kindStand  = "stand"
)

// Owners sends commands to the partitions' owners, wherever they run.
type Owners struct{ Journal *journal.Journal }

// Settle returns once the owner of a tenant's partition goes by a registry that is at least of this revision, and
// nothing is in flight to an endpoint of the tenant that it closed.
func (o Owners) Settle(ctx context.Context, tenant string, revision uint64) error {
	return o.ask(ctx, o.Journal.Partition(tenant), request{Kind: kindSettle, Tenant: tenant, Revision: revision})
}

// Retry has a delivery sent now, whatever it waits for and whether it was settled; it returns once that is durable.
func (o Owners) Retry(ctx context.Context, partition int, ref Ref) error {
	return o.ask(ctx, partition, request{Kind: kindRetry, Ref: ref})
}

// Cancel ends a delivery that is not settled; it returns once that is durable. What is in flight is cut off.
func (o Owners) Cancel(ctx context.Context, partition int, ref Ref) error {
	return o.ask(ctx, partition, request{Kind: kindCancel, Ref: ref})
}

func (o Owners) ask(ctx context.Context, partition int, r request) error {
	answer, err := o.send(ctx, partition, r)
	if err != nil {
		return err
	}
	return decodeAnswer(string(answer))
}

func (o Owners) send(ctx context.Context, partition int, r request) ([]byte, error) {
	asked, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	answer, err := o.Journal.Request(ctx, subject(partition), asked)
	if errors.Is(err, journal.ErrNotFound) {
		return nil, ErrUnavailable
	}
	return answer, err
}

func subject(partition int) string { return fmt.Sprintf("owner.%d", partition) }

const answerOK = "ok"

// answers are those that a caller may branch on.
var answers = []error{ErrBusy, ErrSettled, ErrGone, ErrUnavailable}

func encodeAnswer(err error) string {
	if err == nil {
		return answerOK
	}
	for _, known := range answers {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return err.Error()
}

func decodeAnswer(s string) error {
	if s == answerOK {
		return nil
	}
	for _, known := range answers {
		if s == known.Error() {
			return known
		}
	}
	return errors.New(s)
}

// serve answers the commands for this partition.
func (l *loop) serve(ctx context.Context) (stop func(), err error) {
	return l.o.Journal.Serve(ctx, subject(l.o.Partition), func(ctx context.Context, asked []byte) []byte {
		var r request
		if err := json.Unmarshal(asked, &r); err != nil {
			return []byte("not a command")
		}
		// Beside an owner that was suspended, and does not know yet that it is none any more, there may be another, who answers.
		if !l.o.Tenure.Held() {
			return nil
		}
		answer := l.answer(ctx, r)
		if !l.o.Tenure.Held() {
			return nil
		}
		return answer
	})
}

func (l *loop) answer(ctx context.Context, r request) []byte {
	switch r.Kind {
	case kindHealth:
		return l.tellHealth(ctx, r.Ref.EndpointID)
	case kindReopen:
		return l.obeyReopen(ctx, r.Reopening)
	case kindStand:
		return l.obeyStand(ctx)
	}
	return []byte(encodeAnswer(l.obey(ctx, r)))
}

func (l *loop) obey(ctx context.Context, r request) error {
	switch r.Kind {
	case kindSettle:
		return l.await(ctx, func(l *loop, answer reply) {
			l.settling = append(l.settling, settlement{r.Revision, r.Tenant, l.o.Clock(), answer})
			l.checkSettled(l.o.Clock())
		})
	case kindRetry:
		return l.await(ctx, func(l *loop, answer reply) { l.retry(r.Ref, answer) })
	case kindCancel:
		return l.await(ctx, func(l *loop, answer reply) { l.cancel(r.Ref, answer) })
	case kindErase:
		return l.await(ctx, func(l *loop, answer reply) { l.erase(r, answer) })
	}
	return fmt.Errorf("unknown command %q", r.Kind)
}

// await has the loop run a command and returns its answer.
func (l *loop) await(ctx context.Context, run func(*loop, reply)) error {
	done := make(chan error, 1)
	answer := func(err error) { done <- err }
	if !l.hand(ctx, command{run: func(l *loop) { run(l, answer) }, answer: answer}) {
		return ErrUnavailable
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ErrUnavailable
	}
}

// hand gives the loop a command; false where it is stopping.
func (l *loop) hand(ctx context.Context, c command) bool {
	select {
	case l.commandC <- c:
		return true
	case <-ctx.Done():
		return false
	}
}

// retry has a delivery's event read, to make sure of what stands there, before placeRetry opens it.
func (l *loop) retry(ref Ref, answer reply) {
	k := owner.Key{Seq: ref.Seq, Endpoint: ref.EndpointID}
	item := fetchItem{
		entry:   owner.Entry{Key: k, Attempts: ref.Attempts, Recorded: true},
		purpose: purposeRetry, reason: relay.ReasonRetried, deliveryID: ref.DeliveryID, redacted: ref.Redacted, reply: answer,
	}
	e, open := l.state.Get(k)
	_, live := l.live[k]
	_, reopening := l.reopening[k]
	switch {
	case live, reopening, open && e.Status == owner.Busy:
		answer(ErrBusy)
		return
	case l.stopping:
		answer(ErrUnavailable)
		return
	case ref.Seq == 0 || ref.Seq > l.state.Routed():
		answer(ErrGone)
		return
	case open:
		item.entry = e
		l.state.SetBusy(k, true)
	default:
		l.reopening[k] = struct{}{}
	}
	l.urgent = append(l.urgent, item)
}

// placeRetry opens the delivery, due now and with its whole time before it.
func (l *loop) placeRetry(f fetched, o *relay.Outcome) error {
	k := f.item.entry.Key
	ep := l.snapshot.Endpoint(k.Endpoint)
	if refused := retryRefused(f.item.deliveryID, o.DeliveryID, ep); refused != nil {
		l.state.SetBusy(k, false)
		f.item.reply(refused)
		return nil
	}
	now := l.o.Clock()
	o.State, o.Due, o.Deadline, o.Redacted = relay.Retrying, now, deadline(ep, now), f.item.redacted
	if err := l.record(o, !f.item.entry.Recorded, false); err != nil {
		return err
	}
	l.afterSync(f.item.reply)
	return nil
}

func retryRefused(asked, found string, ep *registry.Endpoint) error {
	switch {
	case asked != found:
		return errMismatch
	case ep == nil || ep.State == relay.EndpointDeleted:
		return ErrGone
	}
	return nil
}

func (l *loop) cancel(ref Ref, answer reply) {
	k := owner.Key{Seq: ref.Seq, Endpoint: ref.EndpointID}
	if t, live := l.live[k]; live {
		if t.delivery.ID != ref.DeliveryID {
			answer(errMismatch)
			return
		}
		t.cancelled = relay.ReasonCancelled
		t.waiters = append(t.waiters, answer)
		if t.cancel != nil {
			t.cancel()
		}
		return
	}
	e, open := l.state.Get(k)
	switch {
	case !open:
		answer(ErrSettled)
	case e.Status == owner.Busy:
		answer(ErrBusy) // between the log and its lane: for milliseconds
	case l.stopping:
		answer(ErrUnavailable)
	default:
		l.state.SetBusy(k, true)
		l.urgent = append(l.urgent, fetchItem{
			entry: e, purpose: purposeCancel, reason: relay.ReasonCancelled, deliveryID: ref.DeliveryID, reply: answer,
		})
	}
}

// waiter is answered once OUTCOMES is durable up to its sequence.
type waiter struct {
	seq   uint64
	reply reply
}

// afterSync answers once what was recorded so far is durable.
func (l *loop) afterSync(answer reply) {
	l.recording.began = time.Time{} // at once
	l.waiting = append(l.waiting, waiter{l.state.Folded(), answer})
	signal(l.hurryC)
}

// synced is the end of one sync.
type synced struct {
	upTo uint64
	err  error
}

// keepSynced makes OUTCOMES durable in groups: SyncEvery after something was appended, or at once when somebody waits for it.
func (l *loop) keepSynced(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.hurryC:
		case <-l.dirtyC:
			timer := time.NewTimer(l.o.SyncEvery)
			select {
			case <-timer.C:
			case <-l.hurryC:
			case <-ctx.Done():
				timer.Stop()
				return
			}
			timer.Stop()
		}
		upTo, err := l.appender.Sync(ctx)
		select {
		case l.syncedC <- synced{upTo, err}:
		case <-ctx.Done():
			return
		}
	}
}

func (l *loop) synced(s synced) error {
	if s.err != nil {
		return fmt.Errorf("outcomes: %w", s.err)
	}
	for len(l.waiting) > 0 && l.waiting[0].seq <= s.upTo {
		l.waiting[0].reply(nil)
		l.waiting = l.waiting[1:]
	}
	l.unsynced = s.upTo < l.appender.Last()
	if l.unsynced {
		signal(l.dirtyC)
	}
	if len(l.waiting) > 0 {
		signal(l.hurryC)
	}
	return nil
}
