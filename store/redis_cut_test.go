package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/store/redistest"
)

// cutter does something before the command (or the flight of commands) number at.
type cutter struct {
	at, seen int
	cut      func() error
}

func (c *cutter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *cutter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "hello" { // a new connection, whenever the pool makes one
			return next(ctx, cmd)
		}
		if err := c.step(); err != nil {
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

func (c *cutter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if err := c.step(); err != nil {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
			return err
		}
		return next(ctx, cmds)
	}
}

func (c *cutter) step() error {
	c.seen++
	if c.seen-1 == c.at {
		return c.cut()
	}
	return nil
}

func cutLog() []relay.SequencedOutcome {
	var out []relay.SequencedOutcome
	for i := range 300 {
		tenant, event := fmt.Sprintf("t%d", i%3), fmt.Sprintf("evt-%d", i/2)
		o := relay.Outcome{DeliveryID: relay.DeliveryID(tenant, event, "ep_1"), Tenant: tenant, EndpointID: "ep_1", EventID: event,
			EventType: "contact.updated", AcceptTime: noon.Add(time.Duration(i/2) * time.Second), Time: noon, State: relay.Retrying, Attempts: 2,
			Attempt: &relay.Attempt{Number: 2}}
		out = append(out, relay.SequencedOutcome{Sequence: uint64(i) + 1, Outcome: o})
	}
	return out
}

// audit checks that the view holds what a log up to its position makes, and how large it thinks that is.
func audit(t *testing.T, s *inRedis, log []relay.SequencedOutcome) (size int64) {
	t.Helper()
	ctx := context.Background()
	at, err := s.stored(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range log[:at] {
		if _, err := s.Delivery(ctx, o.Tenant, o.DeliveryID); err != nil {
			t.Fatalf("position %d, but the delivery of %d: %v", at, o.Sequence, err)
		}
	}
	size, err = s.stored64(ctx, []string{"t0", "t1", "t2"})
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// TestRedisCutBetweenCommands goes through every place between two commands of Apply, and there empties the server, or
// ends the writer as kill -9 does. In no case is the position ahead of the deliveries afterwards, and a projector
// that goes on from it comes to the same view.
func TestRedisCutBetweenCommands(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client()
	log := cutLog()
	ctx := context.Background()
	errCut := errors.New("cut")
	for name, cut := range map[string]func() error{
		"emptied": func() error { return client.FlushAll(ctx).Err() },
		"killed":  func() error { return errCut },
	} {
		for _, before := range []uint64{0, 100} { // a first group, and a later one
			whole, applied := int64(0), 0
			for at, more := 0, true; more; at++ {
				if err := client.FlushAll(ctx).Err(); err != nil {
					t.Fatal(err)
				}
				s := openCut(t, server)
				applyUpTo(t, s, log, before)
				c := &cutter{at: at, cut: cut}
				s.client.AddHook(c)
				err := s.Apply(ctx, 0, 250, log[before:250])
				more = c.seen > at
				c.at = -1 // what follows is not Apply's
				if more && name == "killed" && !errors.Is(err, errCut) {
					t.Fatalf("%s before command %d of %d: %v", name, at, before, err)
				}
				if err == nil {
					applied++
				}
				audit(t, s, log)
				s.Close()
				s = openCut(t, server)
				applyUpTo(t, s, log, 300)
				if size := audit(t, s, log); whole == 0 {
					whole = size
				} else if size != whole {
					t.Fatalf("%s before command %d: %d bytes, want %d", name, at, size, whole)
				}
				s.Close()
				if at > 50 {
					t.Fatal("no end")
				}
			}
			if applied == 0 { // at least where no command was left to cut before
				t.Fatalf("%s: never applied", name)
			}
		}
	}
}

func openCut(t *testing.T, server *redistest.Server) *inRedis {
	t.Helper()
	a, err := parseAddress(server.URL("cut:"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := openRedis(context.Background(), a, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// applyUpTo goes on from the position.
func applyUpTo(t *testing.T, s *inRedis, log []relay.SequencedOutcome, to uint64) {
	t.Helper()
	for range 3 {
		at, err := s.Position(context.Background(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if at >= to {
			return
		}
		if err := s.Apply(context.Background(), 0, to, log[at:to]); err != nil && !errors.Is(err, relay.ErrPositionLost) {
			t.Fatal(err)
		}
	}
	if at, err := s.Position(context.Background(), 0); at < to || err != nil {
		t.Fatalf("position %d, %v", at, err)
	}
}

// TestRedisLateGroup: a writer is overtaken, between any two of its commands, by the partition's next owner. Its
// late group takes nothing back.
func TestRedisLateGroup(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	ctx := context.Background()
	log := cutLog()
	for i := range 10 { // what the group of 100 to 110 touches is dead by its end
		o := log[100+i]
		o.Sequence, o.State, o.Attempts, o.Attempt = 301+uint64(i), relay.Dead, 3, &relay.Attempt{Number: 3}
		log = append(log, o)
	}
	for at, more := 0, true; more; at++ {
		if err := server.Client().FlushAll(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		old, next := openCut(t, server), openCut(t, server)
		applyUpTo(t, old, log, 100)
		c := &cutter{at: at, cut: func() error { applyUpTo(t, next, log, 310); return nil }}
		old.client.AddHook(c)
		err := old.Apply(ctx, 0, 110, log[100:110])
		if more = c.seen > at; more != errors.Is(err, relay.ErrPositionLost) {
			t.Fatalf("overtaken before command %d: %v", at, err)
		}
		applyUpTo(t, next, log, 310)
		for _, o := range log[300:] {
			d, err := next.Delivery(ctx, o.Tenant, o.DeliveryID)
			if err != nil || d.State != relay.Dead || len(d.History) != 2 {
				t.Fatalf("overtaken before command %d: %s with %d attempts, %v", at, d.State, len(d.History), err)
			}
		}
		old.Close()
		next.Close()
	}
}
