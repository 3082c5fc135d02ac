package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// Serve answers requests on a subject (tokens of A-Za-z0-9_- parted by dots),
// from this process and others, each in a goroutine of its own, until stop is
// called; stop waits for the answers under way. A nil answer is none, and the asker waits for another's. ctx is the handler's, and ends with stop. Requests are not kept: one that
// nobody serves fails at once.
func (j *Journal) Serve(ctx context.Context, subject string, handle func(context.Context, []byte) []byte) (stop func(), err error) {
	if err := checkSubject(subject); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var mu sync.Mutex
	var done bool
	var busy sync.WaitGroup
	sub, err := j.nc.Subscribe(j.opt.Name+".cmd."+subject, func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if done {
			return
		}
		busy.Add(1)
		go func() {
			defer busy.Done()
			answer := handle(ctx, m.Data)
			if answer == nil {
				return
			}
			if err := m.Respond(answer); err != nil {
				j.log.Warn("journal: answer to a command", "subject", subject, "error", err)
			}
		}()
	})
	if err == nil {
		// The server must know the subscription before anybody is told of it.
		fctx, stop := bound(ctx)
		err = j.nc.FlushWithContext(fctx)
		stop()
	}
	if err != nil {
		cancel()
		return nil, unavailable(err)
	}
	return func() {
		sub.Unsubscribe()
		mu.Lock()
		done = true
		mu.Unlock()
		cancel()
		busy.Wait()
	}, nil
}

// Request sends a request to whoever serves the subject and returns the answer.
// ErrNotFound: nobody serves it.
func (j *Journal) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	if err := checkSubject(subject); err != nil {
		return nil, err
	}
	if len(data) > j.limit {
		return nil, fmt.Errorf("%w: request of %d bytes, at most %d", ErrTooLarge, len(data), j.limit)
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	m, err := j.nc.RequestWithContext(ctx, j.opt.Name+".cmd."+subject, data)
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, fmt.Errorf("%w: nobody serves %s", ErrNotFound, subject)
	} else if err != nil {
		return nil, unavailable(err)
	}
	return m.Data, nil
}

func checkSubject(s string) error {
	for t := range strings.SplitSeq(s, ".") {
		if t == "" || len(s) > 200 || strings.ContainsFunc(t, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-')
		}) {
			return fmt.Errorf("journal: subject %q: want tokens of A-Za-z0-9_- parted by dots", s)
		}
	}
	return nil
}
