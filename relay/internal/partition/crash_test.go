package partition

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/breaker"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/owner"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// crashDir, in the environment, makes this test binary an owner of the journal in that folder until it is killed. It
// says on standard output what it accepted and what it sends.
const crashDir = "SEALPOST_PARTITION_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		fmt.Fprintln(os.Stderr, ownUntilKilled(dir))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// Killed at any moment, however often, with whatever was unrecorded: each delivery comes to exactly one end. What is sent
// again was in flight when the owner died.
func TestCrashes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.latency = 4 * time.Millisecond
	w.endpoint("ep_a")
	w.endpoint("ep_b", func(r *registry.Record) { r.Settings.Concurrency = 2 })
	w.endpoint("ep_o", ordered)
	chance := rand.New(rand.NewPCG(1, 2))
	w.script(func(s sent) relay.Verdict {
		switch n := chance.IntN(20); { // called one at a time
		case n == 0:
			return status(422)
		case n < 5:
			return status(500)
		}
		return status(200)
	})
	endpoints := []string{"ep_a", "ep_b", "ep_o"}
	var seqs []uint64
	inFlight := 0
	for round := range 25 {
		w.start()
		n := 5 + rand.IntN(30)
		for i := range n {
			eventType := "contact.updated"
			if i%7 == 0 {
				eventType = "ticket.opened"
			}
			seq := w.publish(eventType, `{"n":1}`)
			if eventType == "contact.updated" {
				seqs = append(seqs, seq)
			}
			if i == n/2 && round%3 == 0 {
				w.later(2 * breaker.LastProbe)
			}
		}
		if reached := rand.IntN(n * 3); reached > 0 { // let it come somewhere
			before := len(w.received())
			deadline := time.Now().Add(200 * time.Millisecond)
			for len(w.received()) < before+reached && time.Now().Before(deadline) {
				time.Sleep(time.Millisecond)
			}
		}
		if round%5 == 4 {
			w.finish()
		} else {
			w.crash()
			inFlight += 8 + 2 + 1
		}
	}
	w.start()
	w.until("everything settled", func() bool {
		w.later(breaker.LastProbe)
		last := w.latest()
		for _, seq := range seqs {
			for _, id := range endpoints {
				if !last[owner.Key{Seq: seq, Endpoint: id}].State.Terminal() {
					return false
				}
			}
		}
		return true
	})
	w.finish()
	w.settled()
	again, unknown := 0, map[owner.Key]int{} // POSTs of which no outcome tells
	for _, s := range w.received() {
		unknown[s.Key]++
	}
	for _, o := range w.outcomes() {
		if o.Attempt != nil {
			unknown[owner.Key{Seq: o.Seq, Endpoint: o.EndpointID}]--
		}
	}
	for k, n := range unknown {
		if n < 0 {
			t.Errorf("%v: outcomes tell of %d attempts more than were made", k, -n)
		}
		again += n
	}
	t.Logf("%d POSTs of %d deliveries; %d were in flight at a crash", len(w.received()), 3*len(seqs), again)
	if again > inFlight {
		t.Errorf("%d deliveries were sent again, and no more than %d can have been in flight", again, inFlight)
	}
	// Outcomes that were on their way to the log at a crash are not seen by the next life, which then sends again, in order,
	// what it takes for unsent.
	orderKept(t, w, "ep_o", true)
}

// orderKept demands that nothing was sent to an ordered endpoint before all of a lower sequence was settled; over crashes, that
// what comes after a higher sequence had come before, and that order is kept from there on.
func orderKept(t *testing.T, w *world, endpoint string, crashes bool) {
	t.Helper()
	var last sent
	before := map[uint64]bool{}
	for _, s := range w.received() {
		if s.Endpoint != endpoint {
			continue
		}
		if s.Seq < last.Seq && !(crashes && before[s.Seq]) {
			t.Errorf("%s: event %d was sent after event %d", endpoint, s.Seq, last.Seq)
		}
		before[s.Seq] = true
		last = s
	}
	if w.partner.highest[endpoint] > 1 {
		t.Errorf("%s: %d in flight at once", endpoint, w.partner.highest[endpoint])
	}
}

// Strictly in order, over failures, the breaker, full lanes, pauses and restarts.
func TestOrdered(t *testing.T) {
	t.Parallel()
	for round := range 4 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, impatient)
			w.latency = 2 * time.Millisecond
			w.endpoint("ep", ordered)
			chance := rand.New(rand.NewPCG(uint64(round), 2))
			failing := 0
			w.script(func(s sent) relay.Verdict {
				if failing == 0 && chance.IntN(40) == 0 {
					failing = chance.IntN(2 * breaker.MaxConsecutive)
				}
				switch {
				case failing > 0:
					failing--
					return status(500)
				case chance.IntN(30) == 0:
					return status(400)
				}
				return status(200)
			})
			var seqs []uint64
			for i := range 8 {
				w.start()
				seqs = append(seqs, w.many(40)...)
				switch i % 4 {
				case 0:
					w.state("ep", relay.EndpointPaused)
					w.state("ep", relay.EndpointActive)
				case 1:
					w.later(time.Minute)
				case 2:
					w.crash()
					continue
				}
				w.finish()
			}
			w.start()
			w.until("everything settled", func() bool {
				w.later(time.Minute)
				last := w.latest()
				return !slices.ContainsFunc(seqs, func(seq uint64) bool { return !last[owner.Key{Seq: seq, Endpoint: "ep"}].State.Terminal() })
			})
			w.finish()
			w.settled()
			orderKept(t, w, "ep", false)
		})
	}
}

// Stopped in order, however often and under load: each delivery is sent exactly once.
func TestGracefulStops(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.endpoint("ep_a")
	w.endpoint("ep_b", ordered)
	var seqs []uint64
	for range 12 {
		w.start()
		seqs = append(seqs, w.many(40)...)
		w.finish()
	}
	w.start()
	for _, id := range []string{"ep_a", "ep_b"} {
		w.reachAll(seqs, id, relay.Delivered)
	}
	w.finish()
	w.settled()
	if n := len(w.received()); n != 2*len(seqs) {
		t.Errorf("%d POSTs of %d deliveries", n, 2*len(seqs))
	}
	orderKept(t, w, "ep_b", false)
}

// A stop does not wait for ever: what is in flight when its grace is over is cut off, stays open, and is sent again.
func TestStopGrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *Options) { o.StopGrace = 20 * time.Millisecond })
	w.endpoint("ep")
	w.hang("ep")
	w.start()
	seqs := w.many(2)
	w.until("an attempt", func() bool { return w.inFlight("ep") == 1 })
	w.finish()
	w.reaches(seqs[0], "ep", relay.Pending, relay.ReasonInterrupted)
	w.release()
	w.start()
	w.reachAll(seqs, "ep", relay.Delivered)
	w.finish()
	w.settled()
}

// The same over a real process that is killed with SIGKILL.
func TestKilledProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	accepted, posts := map[string]bool{}, map[string]int{}
	for range 4 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), crashDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// It is killed after so many lines, wherever it is then.
		lines := 200 + rand.IntN(600)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			kind, id, _ := strings.Cut(scan.Text(), " ")
			switch kind {
			case "accepted":
				accepted[id] = true
			case "sends":
				posts[id]++
			}
			if lines--; lines == 0 {
				cmd.Process.Kill()
			}
		}
		if err := cmd.Wait(); err == nil || lines > 0 {
			t.Fatalf("it ended by itself: %v", err)
		}
		cancel()
	}
	w := openWorld(t, dir)
	w.start()
	w.until("everything that was accepted", func() bool {
		done := 0
		for _, o := range w.latest() {
			if o.State == relay.Delivered && accepted[o.EventID] {
				done++
			}
		}
		return done == len(accepted)
	})
	w.until("everything settled", func() bool {
		for _, o := range w.latest() {
			if !o.State.Terminal() {
				return false
			}
		}
		return true
	})
	w.finish()
	w.settled()
	for _, s := range w.received() {
		posts[fmt.Sprint(s.Seq)]++
	}
	twice := 0
	for _, n := range posts {
		twice += max(0, n-1)
	}
	t.Logf("%d events accepted; %d sent again", len(accepted), twice)
	if len(accepted) < 100 {
		t.Errorf("only %d events were accepted", len(accepted))
	}
	if kills := 4; twice > kills*64 {
		t.Errorf("%d sent again: more than what was in flight or finished in the last group", twice)
	}
}

// ownUntilKilled publishes and delivers; a result takes a moment, so that several are in flight.
func ownUntilKilled(dir string) error {
	var mu sync.Mutex
	say := func(kind, id string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(kind, id)
	}
	w := openWorld(process{}, dir)
	if w.registry.Snapshot().Endpoint("ep") == nil {
		w.endpoint("ep")
	}
	w.script(func(s sent) relay.Verdict {
		say("sends", fmt.Sprint(s.Seq))
		return status(200)
	})
	run := time.Now().UnixNano()
	for publisher := range 8 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("evt_%d_%d_%d", run, publisher, i)
				w.accept(id, "contact.updated", `{"n":1}`)
				say("accepted", id)
			}
		}()
	}
	return Run(context.Background(), w.made())
}

// process is the test of a process that has none.
type process struct{ testing.TB }

func (process) Helper()                  {}
func (process) Cleanup(func())           {}
func (process) Context() context.Context { return context.Background() }
func (process) Fatal(args ...any) {
	fmt.Fprintln(os.Stderr, args...)
	os.Exit(2)
}

// A second owner takes the partition over: the first one's next append is refused, and it stops.
func TestFence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.endpoint("ep")
	w.fenced = true
	w.start()
	w.many(5)
	w.reaches(5, "ep", relay.Delivered, "")
	open := w.hang("ep")
	w.many(1)
	w.until("an attempt", func() bool { return w.inFlight("ep") == 1 })

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := w.made()
	second := newPartner(t)
	o.Courier, o.Metrics = second, NewMetrics(prometheus.NewRegistry())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, o) }()
	w.reaches(6, "ep", relay.Delivered, "") // by the second: to the first it is in flight
	open()
	if err := w.await(); !errors.Is(err, journal.ErrFenced) {
		t.Fatalf("the first owner ended with %v", err)
	}
	seqs := w.many(5)
	w.ended = ended
	w.reachAll(seqs, "ep", relay.Delivered)
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	w.ended = nil
	w.settled()
	if len(second.received()) != 6 || len(w.received()) != 6 {
		t.Errorf("%d POSTs by the second, %d by the first", len(second.received()), len(w.received()))
	}
}

// An owner that failed for a passing reason can be started again in the same process, though what it appended last was
// never synced.
func TestStartsAgainWithUnsyncedOutcomes(t *testing.T) {
	t.Parallel()
	syncEvery := time.Hour
	w := newWorld(t, func(o *Options) { o.SyncEvery, o.CheckpointEvery = syncEvery, time.Hour })
	w.endpoint("ep")
	w.start()
	seqs := w.many(20)
	w.until("attempts", func() bool { return len(w.received()) == len(seqs) && w.inFlight("ep") == 0 })
	w.crash()
	syncEvery = time.Millisecond // for what was not even appended is sent again
	w.start()
	w.reachAll(seqs, "ep", relay.Delivered)
	w.finish()
	w.settled()
}
