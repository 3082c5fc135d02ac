package partition

import (
	"context"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/lane"
	"github.com/sealpost/sealpost/relay/internal/owner"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// task is a delivery in a lane or in flight. It belongs to the loop, but for what the courier reads of it.
type task struct {
	key      owner.Key
	delivery *relay.Delivery
	endpoint *registry.Endpoint
	attempts int // made so far; the delivery's own are those before this turn, and the courier's to read
	progress relay.Progress
	redacted int
	first    bool // no outcome of it was recorded yet
	backlog  bool // it was parked, or failed, before

	subject   string             // of the event, as it was published: it may be erased
	cancelled relay.Reason       // why it ends when it can: a caller asked for it, or it was erased
	waiters   []reply            // of that caller
	ticket    lane.Ticket[*task] // once it is in flight
	started   time.Time
	ctx       context.Context
	cancel    context.CancelFunc
	slot      int // in loop.flying
	// turn tells the courier how long to wait before the next chunk; nil where its endpoint has no rate.
	turn chan time.Duration
}

// outcome is a change of the delivery's state, with what it has of attempts and progress.
func (t *task) outcome(state relay.DeliveryState, reason relay.Reason) *relay.Outcome {
	o := outcomeOf(t.delivery, state, reason)
	o.Attempts, o.Progress, o.Redacted = t.attempts, t.progress, t.redacted
	return o
}

func newTask(d *relay.Delivery, ep *registry.Endpoint, subject string, redacted int, first bool) *task {
	t := &task{
		key: owner.Key{Seq: d.Seq, Endpoint: ep.ID}, delivery: d, endpoint: ep, subject: subject,
		attempts: d.Attempts, progress: d.Progress, redacted: redacted, first: first,
	}
	if ep.RateLimit > 0 {
		t.turn = make(chan time.Duration, 1)
	}
	return t
}

func outcomeOf(d *relay.Delivery, state relay.DeliveryState, reason relay.Reason) *relay.Outcome {
	return &relay.Outcome{
		DeliveryID: d.ID, Tenant: d.Endpoint.Tenant, EndpointID: d.Endpoint.ID,
		EventID: d.EventID, EventType: d.EventType, EventTime: d.EventTime, AcceptTime: d.AcceptTime, Seq: d.Seq,
		State: state, Reason: reason, Attempts: d.Attempts, Deadline: d.Deadline, Progress: d.Progress,
	}
}

// result is what a courier has to say of a task: once for each chunk that was accepted, and once at the end.
type result struct {
	task     *task
	attempt  *relay.Attempt // nil where none was made
	verdict  relay.Verdict
	progress relay.Progress // after the attempt
	final    bool
}

// courier sends what it is given until there is no more.
func (l *loop) courier() {
	for t := range l.courierC {
		l.send(t)
	}
}

// send makes the attempts of one delivery: one, or one for each chunk until one is not accepted. A panic in a step withholds
// the delivery and stops nothing else.
func (l *loop) send(t *task) {
	var last result
	defer func() {
		if p := recover(); p != nil {
			l.log.Error("a delivery panicked", "delivery", t.delivery.ID, "endpoint", t.key.Endpoint, "panic_type", typeName(p))
			last = result{task: t, verdict: relay.Verdict{Kind: relay.VerdictWithhold, Reason: relay.ReasonPanicked}, progress: t.delivery.Progress}
		}
		last.final = true
		l.resultC <- last
	}()
	last = result{task: t, progress: t.delivery.Progress}
	parcel, refused := l.o.Courier.Pack(t.delivery)
	if parcel == nil {
		last.verdict = refused
		return
	}
	for i := parcel.Next(); ; i++ {
		if !l.o.Tenure.Held() {
			last = result{task: t, progress: last.progress, verdict: relay.Verdict{Kind: relay.VerdictLater, Reason: relay.ReasonInterrupted}}
			return
		}
		attempt, verdict := l.o.Courier.Send(t.ctx, parcel, i)
		last = result{task: t, attempt: &attempt, verdict: verdict, progress: parcel.After(i, verdict)}
		if verdict.Kind != relay.VerdictDone || verdict.Reason != relay.ReasonChunkAccepted {
			return
		}
		l.resultC <- last
		if !t.awaitTurn() {
			last = result{task: t, progress: last.progress, verdict: relay.Verdict{Kind: relay.VerdictLater, Reason: relay.ReasonInterrupted}}
			return
		}
	}
}

// awaitTurn returns when the endpoint's rate allows the next chunk, or false when the task was ended meanwhile.
func (t *task) awaitTurn() bool {
	if t.turn == nil {
		return true
	}
	select {
	case wait := <-t.turn:
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
			return true
		case <-t.ctx.Done():
			return false
		}
	case <-t.ctx.Done():
		return false
	}
}
