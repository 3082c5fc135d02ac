package api

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/internal/control"
)

// Bounds of one PublishEvents stream. What is beyond them stays with the client: nothing is read, and HTTP/2's flow
// control holds it back.
const (
	streamEvents = 1024     // read and not yet answered
	streamGroup  = 256      // handed to control in one call
	streamBytes  = 16 << 20 // read and not yet answered, or one event
)

type publishStream = grpc.BidiStreamingServer[sealpostv1.PublishEventsRequest, sealpostv1.PublishEventsResponse]

// PublishEvents keeps a stream of events. They are handed to control in the order in which they came, in groups of
// whatever has gathered while the group before was being kept; so a stream is as fast as its group commits, and its
// order is the journal's. The stream ends when the client has closed it and all is answered.
func (s *eventService) PublishEvents(stream publishStream) error {
	// Receive returns when the stream's context ends, which it does at the latest when this handler returns.
	in := intake{requests: make(chan *sealpostv1.PublishEventsRequest, streamEvents), bytes: semaphore.NewWeighted(streamBytes)}
	go in.receive(stream)
	for {
		group, err := in.next(s.closing)
		if group == nil {
			return err
		}
		if err := s.answer(stream, group); err != nil {
			return err
		}
		in.release(group)
	}
}

// errClosing ends streams when the server stops; what was not answered is the client's to send again.
var errClosing = fmt.Errorf("%w: the server is stopping", control.ErrUnavailable)

// answer keeps a group and answers each of it. A refused event is an answer; only a caller who may publish nothing
// ends the stream.
func (s *eventService) answer(stream publishStream, group []*sealpostv1.PublishEventsRequest) error {
	events := make([]*sealpostv1.Event, len(group))
	for i, r := range group {
		events[i] = r.GetEvent()
	}
	results, err := s.publish(stream.Context(), events)
	if err != nil {
		return err
	}
	for i, result := range results {
		if err := stream.Send(&sealpostv1.PublishEventsResponse{Number: group[i].GetNumber(), Result: result}); err != nil {
			return err
		}
	}
	return nil
}

// intake is what was read of a stream and not yet answered.
type intake struct {
	requests chan *sealpostv1.PublishEventsRequest
	bytes    *semaphore.Weighted
	err      error // set before requests is closed
}

// weight is a request's share of streamBytes; one alone always fits.
func weight(r *sealpostv1.PublishEventsRequest) int64 {
	return min(int64(len(r.GetEvent().GetData()))+512, streamBytes)
}

// receive reads until the client closes its side, or the stream fails.
func (in *intake) receive(stream publishStream) {
	defer close(in.requests)
	ctx := stream.Context()
	for {
		r, err := stream.Recv()
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

// next waits for a request and takes what else has gathered; nil where there will be no more, with the reason unless the
// client closed its side.
func (in *intake) next(closing <-chan struct{}) ([]*sealpostv1.PublishEventsRequest, error) {
	var first *sealpostv1.PublishEventsRequest
	select {
	case <-closing:
		return nil, errClosing
	case r, ok := <-in.requests:
		if !ok {
			return nil, in.err
		}
		first = r
	}
	group := append(make([]*sealpostv1.PublishEventsRequest, 0, 16), first)
	for len(group) < streamGroup {
		select {
		case r, ok := <-in.requests:
			if !ok {
				return group, nil
			}
			group = append(group, r)
		default:
			return group, nil
		}
	}
	return group, nil
}

func (in *intake) release(group []*sealpostv1.PublishEventsRequest) {
	for _, r := range group {
		in.bytes.Release(weight(r))
	}
}
