package partition

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/record"
	"github.com/sealpost/sealpost/relay/internal/route"
	"github.com/sealpost/sealpost/relay/internal/turn"
)

const (
	// readAhead bounds the bytes of events that are read and not yet routed. It is what the journal accepts beyond what is consumed,
	// and more, so that the end of the log is always in sight: an event waits for those of its own tenant alone.
	readAhead = 96 << 20
	// routedAhead bounds the bytes of what is routed and not yet in a lane; each delivery counts for deliveryWeight at least, so
	// that what comes next is never far behind.
	routedAhead    = 64 << 20
	deliveryWeight = 256 << 10
	// overtakesMost bounds how many events may be routed before one that is lower: the cursor waits for it, and all that is above
	// the cursor is looked at again after a crash.
	overtakesMost = 1 << 18
)

// intake holds the events that were read and wait to be routed. Tenants take turns, by what their events cost: a tenant's own keep
// their order, which is all that its endpoints can tell.
type intake struct {
	mu    sync.Mutex
	queue turn.Queue[*arrival]
	order []*arrival // all that were read, from the lowest that waits on
	head  int
	bytes int64
	top   uint64 // the highest that was taken

	filled chan struct{} // one token: something came
	freed  chan struct{} // one token: something was taken
}

type arrival struct {
	event *relay.Event // nil: taken
	size  int64
}

func newIntake() *intake {
	return &intake{filled: make(chan struct{}, 1), freed: make(chan struct{}, 1)}
}

// put waits for room and adds an event; sequences come in ascending order.
func (in *intake) put(ctx context.Context, ev *relay.Event, size int64) error {
	for {
		in.mu.Lock()
		if in.bytes == 0 || in.bytes+size <= readAhead {
			a := &arrival{event: ev, size: size}
			in.bytes += size
			in.queue.Push(ev.Tenant, a)
			in.order = append(in.order, a)
			in.mu.Unlock()
			signal(in.filled)
			return nil
		}
		in.mu.Unlock()
		select {
		case <-in.freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// taken is an event whose turn it is.
type taken struct {
	event  *relay.Event
	lowest uint64 // the lowest sequence that still waits; what is below it and never came is gone from the log
	above  int    // how many above that were taken before
}

// take waits for an event and takes it.
func (in *intake) take(ctx context.Context) (taken, error) {
	for {
		if t, ok := in.tryTake(); ok {
			signal(in.freed)
			return t, nil
		}
		select {
		case <-in.filled:
		case <-ctx.Done():
			return taken{}, ctx.Err()
		}
	}
}

func (in *intake) tryTake() (taken, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	var a *arrival
	var ok bool
	if len(in.order)-in.head > overtakesMost {
		a, ok = in.queue.PopOf(in.order[in.head].event.Tenant, 1) // the lowest of all is its tenant's next
	} else {
		_, a, ok = in.queue.Pop(1)
	}
	if !ok {
		return taken{}, false
	}
	t := taken{event: a.event}
	a.event = nil
	in.bytes -= a.size
	in.top = max(in.top, t.event.Seq)
	for in.head < len(in.order) && in.order[in.head].event == nil {
		in.order[in.head] = nil
		in.head++
	}
	t.lowest = in.top + 1
	if in.head < len(in.order) {
		t.lowest = in.order[in.head].event.Seq
		t.above = len(in.order) - in.head - in.queue.Len()
	}
	if in.head > len(in.order)/2 { // each is moved once for every two that came
		n := copy(in.order, in.order[in.head:])
		clear(in.order[n:])
		in.order, in.head = in.order[:n], 0
	}
	return t, true
}

// charge adds what routing an event has cost to its tenant's turn.
func (in *intake) charge(tenant string, cost int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.queue.Charge(tenant, int64(cost))
}

// read reads EVENTS from there on. Only what is durable is read: an event that a loss of power could still take back must not be
// sent, or its sequence would come to name another event. One that cannot be read now is waited for: nothing after it may
// overtake it.
func (l *loop) read(ctx context.Context, from uint64) {
	next := from
	err := l.readOn(ctx, &next)
	for errors.Is(err, journal.ErrUnreadable) && ctx.Err() == nil {
		select {
		case <-time.After(unreadableWait):
		case <-ctx.Done():
		}
		err = l.readOn(ctx, &next)
	}
	if ctx.Err() == nil {
		select {
		case l.routedC <- routed{err: fmt.Errorf("events: %w", err)}:
		case <-ctx.Done():
		}
	}
}

// unreadableWait is how long what could not be read is left alone.
const unreadableWait = time.Second

func (l *loop) readOn(ctx context.Context, next *uint64) error {
	return l.events.Read(ctx, *next, func(m journal.Message) error {
		ev, err := record.DecodeEvent(m.Payload, m.Seq, m.Time)
		if err != nil {
			return err
		}
		if err := l.intake.put(ctx, ev, int64(len(m.Payload))+arrivalOverhead); err != nil {
			return err
		}
		*next = m.Seq + 1
		return nil
	})
}

// arrivalOverhead is about what an event takes in memory beside its record's bytes.
const arrivalOverhead = 512

// routed is one event with what became of it for each endpoint.
type routed struct {
	taken
	results []route.Routed
	weight  int64 // held of loop.ahead
	err     error // the reader could not go on
}

// route has events routed by their turns, a little ahead of the loop.
func (l *loop) route(ctx context.Context) {
	for {
		t, err := l.intake.take(ctx)
		if err != nil {
			return
		}
		r := routed{taken: t}
		for one := range route.Handle(t.event, l.o.Registry.Snapshot(), l.overtaken.has) {
			r.results = append(r.results, one)
			r.weight += max(deliveryWeight, int64(len(one.Delivery.Data)))
		}
		l.intake.charge(t.event.Tenant, len(r.results))
		r.weight = min(max(deliveryWeight, r.weight), routedAhead)
		if l.ahead.Acquire(ctx, r.weight) != nil {
			return
		}
		select {
		case l.routedC <- r:
		case <-ctx.Done():
			return
		}
	}
}
