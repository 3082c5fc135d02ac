package client

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
)

// Defaults of a Publisher's bounds.
const (
	DefaultMaxPending      = 1024
	DefaultMaxPendingBytes = 16 << 20
)

// eventOverhead is what an event weighs beside its data, in bytes.
const eventOverhead = 512

// ErrClosed is the outcome of an event that a Publisher did not get answered before it was closed, and of one that was
// handed to it later. The event may have been kept.
var ErrClosed = errors.New("client: publisher is closed")

// PublisherOptions bound what a Publisher holds.
type PublisherOptions struct {
	// MaxPending bounds the events that were handed over and not answered; default DefaultMaxPending.
	MaxPending int
	// MaxPendingBytes bounds their size; default DefaultMaxPendingBytes. One event alone always fits.
	MaxPendingBytes int64
}

// Publisher publishes over one stream without waiting for each answer: the way to publish many events. It opens
// the stream again when it breaks, and sends again what was not answered, with the same ids. Events are sent in the order in
// which they were handed over; those that the server refuses for the moment are sent again when it asks for them,
// by when later ones may have been kept.
type Publisher struct {
	client *Client
	events *semaphore.Weighted
	bytes  *semaphore.Weighted
	max    int64 // of bytes
	cancel context.CancelFunc
	done   chan struct{} // closed when run has returned
	wake   chan struct{} // one token: queue is not empty

	mu      sync.Mutex // guards the five below
	settled *sync.Cond // an event was answered
	queue   []*pending // to be sent, in order
	sent    map[uint64]*pending
	last    uint64 // number handed out
	closed  bool
}

// pending is an event on its way.
type pending struct {
	number uint64
	event  *sealpostv1.Event
	weight int64
	until  time.Time
	failed *Error // the last refusal for the moment
	done   func(Receipt, error)
}

// NewPublisher starts a Publisher. Close ends it.
func (c *Client) NewPublisher(o PublisherOptions) *Publisher {
	if o.MaxPending <= 0 {
		o.MaxPending = DefaultMaxPending
	}
	if o.MaxPendingBytes <= 0 {
		o.MaxPendingBytes = DefaultMaxPendingBytes
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Publisher{
		client: c, events: semaphore.NewWeighted(int64(o.MaxPending)), bytes: semaphore.NewWeighted(o.MaxPendingBytes),
		max: o.MaxPendingBytes, cancel: cancel, done: make(chan struct{}), wake: make(chan struct{}, 1), sent: map[uint64]*pending{},
	}
	p.settled = sync.NewCond(&p.mu)
	go p.run(ctx)
	return p
}

// Publish hands an event over and blocks only while the bounds are full. done is called once, with the event's receipt
// or why it was not kept (a *Error, or ErrClosed), from a goroutine of the Publisher's, one at a time: it must not block. The
// event's data must not be changed before. The error is ErrClosed or the context's; then done is not called.
func (p *Publisher) Publish(ctx context.Context, e relay.Event, done func(Receipt, error)) error {
	weight := min(int64(len(e.Data))+eventOverhead, p.max)
	if err := p.events.Acquire(ctx, 1); err != nil {
		return err
	}
	if err := p.bytes.Acquire(ctx, weight); err != nil {
		p.events.Release(1)
		return err
	}
	item := &pending{event: wire(&e), weight: weight, until: time.Now().Add(p.client.retryFor), done: done}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		p.events.Release(1)
		p.bytes.Release(weight)
		return ErrClosed
	}
	p.last++
	item.number = p.last
	p.queue = append(p.queue, item)
	p.mu.Unlock()
	p.nudge()
	return nil
}

// Flush returns when every event that was handed over before is answered, for better or worse.
func (p *Publisher) Flush(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.settled.Broadcast()
	})
	defer stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for upTo := p.last; p.openUpTo(upTo); {
		if err := ctx.Err(); err != nil {
			return err
		}
		p.settled.Wait()
	}
	return nil
}

// openUpTo tells whether an event numbered at most n is not answered. The caller holds mu.
func (p *Publisher) openUpTo(n uint64) bool {
	for _, item := range p.queue {
		if item.number <= n {
			return true
		}
	}
	for number := range p.sent {
		if number <= n {
			return true
		}
	}
	return false
}

// Close takes no more events, waits until all are answered or ctx ends, and stops. What is not answered then gets ErrClosed, and
// Close returns the context's error.
func (p *Publisher) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	err := p.Flush(ctx)
	p.cancel()
	<-p.done
	return err
}

func (p *Publisher) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run keeps a stream open while there is something to send, until ctx ends.
func (p *Publisher) run(ctx context.Context) {
	defer close(p.done)
	defer p.failAll()
	steps := newSteps()
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
		answered, err := p.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if answered {
			steps.Reset()
		}
		p.requeue()
		if err == nil {
			if p.waiting() {
				p.nudge()
			}
			continue
		}
		if !p.sleep(ctx, pause(steps, p.broken(err))) {
			return
		}
		if p.waiting() {
			p.nudge()
		}
	}
}

// session sends and hears answers over one stream until that ends. It tells whether an event was kept over it.
func (p *Publisher) session(ctx context.Context) (answered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	moved := p.client.conn.hold() // before: the stream may come to be on a newer one
	stream, err := p.client.events.PublishEvents(ctx)
	if err != nil {
		cancel()
		return false, err
	}
	heard := make(chan error, 1)
	pauses := make(chan time.Duration, 1)
	go func() { heard <- p.hear(stream, pauses, &answered) }()
	err = p.send(ctx, stream, heard, pauses, moved)
	cancel()
	if last := <-heard; err == nil || errors.Is(err, io.EOF) {
		err = last // why the server ended it
	}
	if errors.Is(err, errMoved) {
		return true, nil
	}
	return answered, err
}

// send writes what is queued until the stream ends. It puts back what it read of heard for its caller.
func (p *Publisher) send(ctx context.Context, stream grpc.BidiStreamingClient[sealpostv1.PublishEventsRequest, sealpostv1.PublishEventsResponse], heard chan error, pauses <-chan time.Duration, moved <-chan struct{}) error {
	var resume <-chan time.Time
	// When the client moves to another connection, what was sent on this one is answered on it, and then the stream is opened anew there.
	leaving := false
	var look <-chan time.Time
	for {
		for message := p.take(resume != nil || leaving); message != nil; message = p.take(false) {
			if err := stream.Send(message); err != nil {
				return err
			}
			select {
			case d := <-pauses:
				resume = time.After(d)
			case <-moved:
				moved, leaving, look = nil, true, time.After(leavingLook)
			default:
			}
			if resume != nil || leaving {
				break
			}
		}
		if leaving && p.answered() {
			return errMoved
		}
		select {
		case <-p.wake:
		case d := <-pauses:
			resume = time.After(d)
		case <-resume:
			resume = nil
			p.requeueRefused()
		case <-moved:
			moved, leaving, look = nil, true, time.After(leavingLook)
		case <-look:
			look = time.After(leavingLook)
		case err := <-heard:
			heard <- err
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// errMoved ends a stream whose connection is to be left.
var errMoved = errors.New("client: the connection has moved")

// leavingLook is how often a stream that is to be left is looked at for answers that are to come.
const leavingLook = 10 * time.Millisecond

// answered tells whether no answer is to come but to events that were refused for the moment.
func (p *Publisher) answered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, item := range p.sent {
		if item.failed == nil {
			return false
		}
	}
	return true
}

// Bounds of what is sent in one message.
const (
	messageEvents = 128
	messageBytes  = 128 << 10 // or one event
)

// take moves the first of the queue to those that are sent, with those after it that fit into its message; nil where there is none,
// or nothing may be sent now. Only numbers that follow each other go together.
func (p *Publisher) take(paused bool) *sealpostv1.PublishEventsRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	if paused || len(p.queue) == 0 {
		return nil
	}
	first := p.queue[0]
	message := &sealpostv1.PublishEventsRequest{Number: first.number, Event: first.event}
	n := 1
	for size := first.weight; n < min(len(p.queue), messageEvents); n++ {
		next := p.queue[n]
		if size += next.weight; size > messageBytes || next.number != first.number+uint64(n) {
			break
		}
		message.More = append(message.More, next.event)
	}
	for i, item := range p.queue[:n] {
		p.queue[i] = nil
		p.sent[item.number] = item
		item.failed = nil
	}
	p.queue = p.queue[n:]
	return message
}

// hear takes answers until the stream ends, and passes on how long a refusal for the moment asks to wait.
func (p *Publisher) hear(stream grpc.BidiStreamingClient[sealpostv1.PublishEventsRequest, sealpostv1.PublishEventsResponse], pauses chan<- time.Duration, answered *bool) error {
	steps := newSteps()
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		again := p.answer(r.GetNumber(), r.GetResult())
		for i, result := range r.GetMore() {
			if refused := p.answer(r.GetNumber()+uint64(i)+1, result); refused != nil {
				again = refused
			}
		}
		if again == nil {
			*answered = true
			steps.Reset()
			continue
		}
		select {
		case pauses <- pause(steps, again.RetryAfter):
		default: // one is asked for already
		}
	}
}

// answer settles an event, or gives the refusal after which it is to be sent again.
func (p *Publisher) answer(number uint64, r *sealpostv1.PublishResult) *Error {
	p.mu.Lock()
	item := p.sent[number]
	if item == nil {
		p.mu.Unlock()
		return nil // an answer to nothing of ours
	}
	var err error
	if e := r.GetError(); e != nil {
		failed := errorIn(item.event.GetId(), e)
		if failed.Temporary() && time.Now().Add(failed.RetryAfter).Before(item.until) {
			item.failed = failed
			p.mu.Unlock()
			return failed
		}
		err = failed
	}
	delete(p.sent, item.number)
	p.mu.Unlock()
	p.settle(item, Receipt{ID: item.event.GetId(), Duplicate: r.GetDuplicate()}, err)
	return nil
}

// settle tells the outcome of an event that is in neither queue nor sent.
func (p *Publisher) settle(item *pending, r Receipt, err error) {
	item.done(r, err)
	p.events.Release(1)
	p.bytes.Release(item.weight)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settled.Broadcast()
}

// requeueRefused puts what was refused for the moment back, in order; the rest of what is sent is still to be answered.
func (p *Publisher) requeueRefused() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for number, item := range p.sent {
		if item.failed != nil {
			delete(p.sent, number)
			p.queue = append(p.queue, item)
		}
	}
	p.sort()
}

// requeue puts everything that was not answered back, in order: its stream is gone.
func (p *Publisher) requeue() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, item := range p.sent {
		p.queue = append(p.queue, item)
	}
	clear(p.sent)
	p.sort()
}

func (p *Publisher) sort() {
	slices.SortFunc(p.queue, func(a, b *pending) int {
		if a.number < b.number {
			return -1
		}
		return 1
	})
}

// broken settles, after a stream ended with err, the events for which there is no other try: all of them where the next
// stream would end alike, else those whose time is over. It gives the least time to wait.
func (p *Publisher) broken(err error) time.Duration {
	failed := errorOf("", err)
	if errors.Is(err, io.EOF) {
		failed = &Error{Code: codes.Unavailable, Text: "the server ended the stream"}
	}
	now := time.Now().Add(failed.RetryAfter)
	var over []*pending
	p.mu.Lock()
	p.queue = slices.DeleteFunc(p.queue, func(item *pending) bool {
		lost := !failed.streamMayComeBack() || now.After(item.until)
		if lost {
			over = append(over, item)
		}
		return lost
	})
	p.mu.Unlock()
	for _, item := range over {
		one := *failed
		one.EventID = item.event.GetId()
		p.settle(item, Receipt{ID: one.EventID}, &one)
	}
	return failed.RetryAfter
}

// streamMayComeBack tells whether opening the stream again may help. A stream ends with more codes than one call does: a
// server that stops cancels or resets it.
func (e *Error) streamMayComeBack() bool {
	switch e.Code {
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.Unimplemented:
		return false
	case codes.ResourceExhausted:
		return e.RetryAfter > 0
	}
	return true
}

// failAll settles everything that is left with ErrClosed.
func (p *Publisher) failAll() {
	p.requeue()
	p.mu.Lock()
	p.closed = true
	left := p.queue
	p.queue = nil
	p.mu.Unlock()
	for _, item := range left {
		p.settle(item, Receipt{ID: item.event.GetId()}, ErrClosed)
	}
}

func (p *Publisher) waiting() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue) > 0
}

func (p *Publisher) sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
