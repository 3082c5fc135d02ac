package api

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/internal/control"
)

// Bounds of one PublishEvents stream. What is beyond them stays with the client: nothing is read, and HTTP/2's flow
// control holds it back.
const (
	streamMessages = 1024     // read and not yet answered
	streamMore     = 255      // events of a message beside the first
	streamGroup    = 256      // handed to control in one call, and what more the last message of them brought
	streamBytes    = 16 << 20 // read and not yet answered, or one message
)

type publishStream = grpc.BidiStreamingServer[sealpostv1.PublishEventsRequest, sealpostv1.PublishEventsResponse]

// PublishEvents keeps a stream of events. They are handed to control in the order in which they came, in groups of
// whatever has gathered while the group before was being kept; so a stream is as fast as its group commits, and its
// order is the journal's. The stream ends when the client has closed it and all is answered.
func (s *eventService) PublishEvents(stream publishStream) error {
	// Receive returns when the stream's context ends, which it does at the latest when this handler returns.
	in := intake{requests: make(chan *sealpostv1.PublishEventsRequest, streamMessages), bytes: semaphore.NewWeighted(streamBytes)}
	go in.receive(stream)
	for {
		group, err := in.next(s.closing)
		if len(group.events) == 0 {
			return err
		}
		if err := s.answer(stream, &group); err != nil {
			return err
		}
		in.bytes.Release(group.weight)
	}
}

// errClosing ends streams when the server stops; what was not answered is the client's to send again.
var errClosing = fmt.Errorf("%w: the server is stopping", control.ErrUnavailable)

// group is what is handed to control in one call.
type group struct {
	events  []*sealpostv1.Event
	numbers []uint64
	weight  int64
	more    bool // the client takes several answers in one message
}

func (g *group) add(r *sealpostv1.PublishEventsRequest, more bool) {
	g.events, g.numbers = append(g.events, r.GetEvent()), append(g.numbers, r.GetNumber())
	for i, e := range r.GetMore() {
		g.events, g.numbers = append(g.events, e), append(g.numbers, r.GetNumber()+uint64(i)+1)
	}
	g.weight += weight(r)
	g.more = more
}

// answer keeps a group and answers each of it. A refused event is an answer; only a caller who may publish nothing
// ends the stream.
func (s *eventService) answer(stream publishStream, g *group) error {
	results, err := s.publish(stream.Context(), g.events)
	if err != nil {
		return err
	}
	for at := 0; at < len(results); {
		a := &sealpostv1.PublishEventsResponse{Number: g.numbers[at], Result: results[at]}
		n := 1
		for g.more && n <= streamMore && at+n < len(results) && g.numbers[at+n] == g.numbers[at]+uint64(n) {
			n++
		}
		a.More = results[at+1 : at+n]
		at += n
		if err := stream.Send(a); err != nil {
			return err
		}
	}
	return nil
}

// intake is what was read of a stream and not yet answered.
type intake struct {
	requests chan *sealpostv1.PublishEventsRequest
	bytes    *semaphore.Weighted
	more     bool  // a message had more than one event; of next's caller
	err      error // set before requests is closed
}

// weight is a request's share of streamBytes; one alone always fits.
func weight(r *sealpostv1.PublishEventsRequest) int64 {
	size := int64(len(r.GetEvent().GetData())) + 512
	for _, e := range r.GetMore() {
		size += int64(len(e.GetData())) + 512
	}
	return min(size, streamBytes)
}

// receive reads until the client closes its side, or the stream fails.
func (in *intake) receive(stream publishStream) {
	defer close(in.requests)
	ctx := stream.Context()
	for {
		r, err := stream.Recv()
		if err == nil && len(r.GetMore()) > streamMore {
			err = status.Errorf(codes.InvalidArgument, "more: has %d events, at most %d", len(r.GetMore()), streamMore)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				in.err = err
			}
			return
		}
		if in.err = in.bytes.Acquire(ctx, weight(r)); in.err != nil {
			return
		}
		select {
		case in.requests <- r:
		case <-ctx.Done():
			in.err = context.Cause(ctx)
			return
		}
	}
}

// next waits for a request and takes what else has gathered; none where there will be no more, with the reason unless the
// client closed its side.
func (in *intake) next(closing <-chan struct{}) (g group, err error) {
	select {
	case <-closing:
		return g, errClosing
	case r, ok := <-in.requests:
		if !ok {
			return g, in.err
		}
		in.take(&g, r)
	}
	for len(g.events) < streamGroup {
		select {
		case r, ok := <-in.requests:
			if !ok {
				return g, nil
			}
			in.take(&g, r)
		default:
			return g, nil
		}
	}
	return g, nil
}

func (in *intake) take(g *group, r *sealpostv1.PublishEventsRequest) {
	in.more = in.more || len(r.GetMore()) > 0
	g.add(r, in.more)
}
