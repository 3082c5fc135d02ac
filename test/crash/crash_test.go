// Package crash_test kills the real binary with SIGKILL in the middle of its work, again and again, and holds what came of it
// against what was promised: every event whose publishing was answered with OK arrives at every endpoint that it matches, each
// delivery ends in exactly one state, and only what was in flight, or ended in the last group of outcomes before a kill, comes twice.
package crash_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/store/redistest"
	"github.com/sealpost/sealpost/test/rig"
)

// binary is the sealpost that is killed; TestMain builds it.
var binary string

var rounds = flag.Int("rounds", defaultRounds(), "kills in each crash test, and one of each phase at least; also by SEALPOST_CRASH_ROUNDS")

func defaultRounds() int {
	if n, err := strconv.Atoi(os.Getenv("SEALPOST_CRASH_ROUNDS")); err == nil && n > 0 {
		return n
	}
	if os.Getenv("SEALPOST_TEST_LONG") != "" {
		return 10 * len(phases)
	}
	return 2 * len(phases)
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(rig.Main(m, &binary))
}

// lastGroup is how long before a kill an attempt may have ended and still be made again: the time in which outcomes are gathered
// for one sync (50 ms, see delivery.syncEvery), and what two busy cores may add to it.
const lastGroup = 3 * time.Second

// phase is a moment to kill at, told by what can be seen from outside.
type phase struct {
	name string
	// await returns when the moment has come, or with false if it does not; it is called while events are published and delivered.
	await func(*world) bool
}

// phases are gone through in turn. A later phase is one more line here: what it has to wait for is in the metrics, or on the disk.
var phases = []phase{
	{"publishing", func(w *world) bool {
		return w.grown(func() float64 { return float64(w.accepted.Load()) }, 1+rand.IntN(150))
	}},
	{"delivering", func(w *world) bool {
		return w.grown(func() float64 { return float64(w.partner.answered.Load()) }, 1+rand.IntN(400))
	}},
	{"retrying", func(w *world) bool {
		return w.grown(w.metric("sealpost_delivery_outcomes_total", `state="RETRYING"`), 1+rand.IntN(20))
	}},
	{"checkpointing", func(w *world) bool { return w.grown(w.metric("sealpost_checkpoint_seconds_count", ""), 1) }},
	{"projecting", func(w *world) bool {
		// Applied a moment ago, and the next are on their way.
		return w.grown(w.metric("sealpost_view_outcomes_total", ""), 1+rand.IntN(300)) &&
			w.until(func() bool { return w.process.Metric("sealpost_view_behind_outcomes", "") > 0 })
	}},
	{"parking", func(w *world) bool {
		w.process.MustAct(w.stopping, "pause")
		w.breaks = append(w.breaks, interruption{time.Now(), "/stopping"})
		return w.grown(w.metric("sealpost_delivery_outcomes_total", `state="PARKED"`), 1+rand.IntN(200))
	}},
	{"draining", func(w *world) bool {
		w.process.MustAct(w.stopping, "resume")
		return w.grown(func() float64 { return float64(w.partner.stopped.Load()) }, 1+rand.IntN(100))
	}},
	{"starting", func(w *world) bool {
		w.process.Kill()
		w.breaks = append(w.breaks, interruption{at: time.Now()})
		w.startAndKill(time.Duration(rand.IntN(150)) * time.Millisecond)
		return true
	}},
	{"recovering", func(w *world) bool {
		return w.grown(w.metric("sealpost_events_routed_total", ""), 1) // its first work after the last kill
	}},
	{"trimming events", func(w *world) bool { return w.trimmed("SEALPOST_EVENTS_0") }},
	{"trimming outcomes", func(w *world) bool { return w.trimmed("SEALPOST_OUTCOMES_0") }},
}

// logBytes is so small a bound of the logs that the server gives them blocks of 4 MiB, which can be filled in seconds.
const logBytes = 24 << 20

// trimmed waits until a block of a log goes, and then for up to as long as it takes to trim both: EVENTS is first.
func (w *world) trimmed(stream string) bool {
	w.partner.bulky.Store(true)
	defer w.partner.bulky.Store(false)
	dir := filepath.Join(w.process.Data, "journal", "jetstream", "$G", "streams", stream, "msgs")
	first := firstBlock(dir)
	// What was published lately is to be settled first, and older than what is kept.
	if !w.until(func() bool { return firstBlock(dir) > first }) {
		return false
	}
	time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
	return true
}

// firstBlock is the lowest number of a block in a folder.
func firstBlock(dir string) int {
	lowest := math.MaxInt
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if n, err := strconv.Atoi(strings.TrimSuffix(e.Name(), ".blk")); err == nil {
			lowest = min(lowest, n)
		}
	}
	return lowest
}

// world is what one test knows.
type world struct {
	t       *testing.T
	process *rig.Process
	partner *partner
	breaks  []interruption
	// stopping is the endpoint that is paused and resumed.
	stopping rig.Endpoint

	events   sealpostv1.EventServiceClient
	accepted atomic.Int64

	mu    sync.Mutex
	fates map[string]*fate // by event id
}

// interruption is when attempts were cut off: all of them by a kill, those of one path by a pause.
type interruption struct {
	at   time.Time
	path string
}

// linger is for how long after a kill a request of the killed process may still arrive: it was in the socket. The next process
// takes longer than that to start.
const linger = 50 * time.Millisecond

// cutOff tells whether an attempt that arrived then may have been cut off by the interruption, or ended before it.
func (b interruption) cutOff(arrived time.Time) bool {
	if b.path == "" {
		return arrived.Before(b.at.Add(linger))
	}
	return arrived.Before(b.at)
}

// fate is what the publisher of an event was told.
type fate struct {
	publisher, number int
	ok                bool // answered with OK; otherwise unknown
}

func (w *world) metric(name, labels string) func() float64 {
	return func() float64 { return w.process.Metric(name, labels) }
}

// grown waits until a figure has grown by n.
func (w *world) grown(figure func() float64, n int) bool {
	began := figure()
	return w.until(func() bool { return figure() >= began+float64(n) })
}

// until waits for a moment, but not for longer than a few seconds: one that does not come in a round is no error of the relay's,
// and killing is right at any time.
func (w *world) until(come func() bool) bool {
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); {
		if come() {
			return true
		}
		time.Sleep(200 * time.Microsecond)
	}
	return false
}

// startAndKill begins a start and does not let it come to its end.
func (w *world) startAndKill(after time.Duration) {
	begun := make(chan error, 1)
	go func() { begun <- w.process.Begin() }()
	time.Sleep(after)
	w.process.KillNow()
	<-begun
}

// partner gets everything, fails at times, and keeps when each delivery was answered.
type partner struct {
	answered atomic.Int64
	stopped  atomic.Int64 // answered at /stopping
	flying   atomic.Int64
	bulky    atomic.Bool // events and answers are large, so that both logs grow

	mu       sync.Mutex
	receipts map[string][]receipt // by webhook-id
	order    map[string][]string  // event ids by path, in the order of their first success
	plain    map[string]bool      // event ids that arrived at /plain
}

type receipt struct {
	arrived, answered time.Time
	ok                bool
	event             string
	path              string
}

func (p *partner) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
	p.flying.Add(1)
	defer p.flying.Add(-1)
	var body struct {
		ID   string
		Data struct{ Event string }
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return // cut off: it never arrived
	}
	if r.URL.Path != "/ordered" { // which gets one at a time, and has to keep up
		time.Sleep(time.Duration(rand.IntN(8)) * time.Millisecond)
	}
	fails := r.URL.Path == "/flaky" && rand.IntN(8) == 0
	if fails {
		rw.WriteHeader(http.StatusServiceUnavailable)
	}
	if p.bulky.Load() {
		fmt.Fprintf(rw, `{"pad":"%0*d"}`, 3500, 0)
	}
	id := r.Header.Get("Webhook-Id")
	p.mu.Lock()
	defer p.mu.Unlock()
	if body.Data.Event != body.ID {
		id = "mixed up: " + id
	}
	first := !slices.ContainsFunc(p.receipts[id], func(r receipt) bool { return r.ok })
	p.receipts[id] = append(p.receipts[id], receipt{arrived, time.Now(), !fails, body.ID, r.URL.Path})
	if r.URL.Path == "/plain" {
		p.plain[body.ID] = true
	}
	if first && !fails {
		p.order[r.URL.Path] = append(p.order[r.URL.Path], body.ID)
	}
	p.answered.Add(1)
	if r.URL.Path == "/stopping" {
		p.stopped.Add(1)
	}
}

// publish publishes from one goroutine, one event after the other, until ctx ends. Every second publisher repeats an event
// that was not answered until it is; the others leave it, and do not know.
func (w *world) publish(ctx context.Context, publisher int) {
	for n := 0; ctx.Err() == nil; n++ {
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond) // so that the slowest endpoint keeps up
		id := fmt.Sprintf("p%d-%d", publisher, n)
		pad := rand.IntN(2000)
		if w.partner.bulky.Load() {
			pad *= 20
		}
		e := &sealpostv1.Event{Tenant: "acme", Id: id, Type: "contact.updated", Data: fmt.Appendf(nil, `{"event":%q,"pad":"%0*d"}`, id, pad, 0)}
		f := &fate{publisher: publisher, number: n}
		w.mu.Lock()
		w.fates[id] = f
		w.mu.Unlock()
		for {
			short, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			_, err := w.events.PublishEvent(short, &sealpostv1.PublishEventRequest{Event: e}, grpc.WaitForReady(true))
			cancel()
			if err == nil {
				w.mu.Lock()
				f.ok = true
				w.mu.Unlock()
				w.accepted.Add(1)
			}
			if err == nil || publisher%2 == 1 || ctx.Err() != nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func TestKill(t *testing.T) {
	t.Parallel()
	t.Run("embedded view", func(t *testing.T) {
		t.Parallel()
		kill(t, nil)
	})
	t.Run("redis view", func(t *testing.T) {
		t.Parallel()
		kill(t, rig.Config{"redis": redistest.Start(t).URL("crash")})
	})
}

func kill(t *testing.T, view rig.Config) {
	w := &world{t: t, fates: map[string]*fate{}, partner: &partner{receipts: map[string][]receipt{}, order: map[string][]string{}, plain: map[string]bool{}}}
	server := rig.Serve(t, w.partner)
	w.process = rig.Start(t, binary, rig.Dev().With(rig.Config{"log": rig.Config{"level": "info"},
		"journal":   rig.Config{"minFreeDisk": -1, "eventsMaxBytes": logBytes, "outcomesMaxBytes": logBytes},
		"retention": rig.Config{"age": "2s", "trimEvery": "500ms"}}).With(view))
	w.events = sealpostv1.NewEventServiceClient(w.process.Conn())
	endpoints := map[string]rig.Endpoint{
		"plain":    w.process.Register(server+"/plain", nil),
		"flaky":    w.process.Register(server+"/flaky", nil),
		"ordered":  w.process.Register(server+"/ordered", rig.Object{"ordered": true}),
		"stopping": w.process.Register(server+"/stopping", nil),
	}
	w.stopping = endpoints["stopping"]
	ctx, stop := context.WithCancel(context.Background())
	var publishers sync.WaitGroup
	defer publishers.Wait()
	defer stop()
	for i := range 6 {
		publishers.Go(func() { w.publish(ctx, i) })
	}
	kills := map[string]int{}
	worst := time.Duration(0)
	for round := range max(*rounds, len(phases)) {
		p := phases[round%len(phases)]
		flying := w.partner.flying.Load()
		before, answered := w.accepted.Load(), w.partner.answered.Load()
		if p.await(w) {
			kills[p.name]++
		}
		flying = max(flying, w.partner.flying.Load())
		w.process.Kill()
		w.breaks = append(w.breaks, interruption{at: time.Now()})
		stuck := w.stuck()
		began := time.Now()
		w.process.Restart(nil)
		took := time.Since(began)
		arrived := w.unstuck(stuck)
		worst = max(worst, arrived)
		t.Logf("round %d, %s: %d accepted and %d requests since the last, %d in flight; ready again in %v, the last of %d stuck events came %v after that",
			round+1, p.name, w.accepted.Load()-before, w.partner.answered.Load()-answered, flying, took.Round(time.Millisecond), len(stuck), arrived.Round(time.Millisecond))
	}
	t.Logf("kills by phase: %v; the last stuck event came at most %v after a restart", kills, worst.Round(time.Millisecond))
	for _, p := range phases {
		if kills[p.name] == 0 {
			t.Errorf("never killed while %s: the moment did not come", p.name)
		}
	}
	stop()
	publishers.Wait()
	w.process.MustAct(w.stopping, "resume")
	w.settle(endpoints)
	w.check(endpoints)
}

// unstuckWithin is how long after a restart the last event may arrive that a kill held up.
const unstuckWithin = 5 * time.Second

// stuck are the accepted events that have not arrived at /plain.
func (w *world) stuck() (ids []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.partner.mu.Lock()
	defer w.partner.mu.Unlock()
	for id, f := range w.fates {
		if f.ok && !w.partner.plain[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

// unstuck waits until all of them have arrived, and returns how long it took.
func (w *world) unstuck(ids []string) time.Duration {
	began := time.Now()
	left := 0
	rig.Eventually(w.t, "what a kill held up arrives", func() bool {
		w.partner.mu.Lock()
		defer w.partner.mu.Unlock()
		left = 0
		for _, id := range ids {
			if !w.partner.plain[id] {
				left++
			}
		}
		return left == 0
	}, func() string { return fmt.Sprintf("%d of %d have not", left, len(ids)) })
	took := time.Since(began)
	if took > unstuckWithin {
		w.t.Errorf("the last of %d stuck events came %v after the restart", len(ids), took)
	}
	return took
}

// settle waits until every accepted event is in a state that ends it, at every endpoint, in the view. What is of unknown fate
// and was kept stands before the last event in the log, so that it is there too.
func (w *world) settle(endpoints map[string]rig.Endpoint) {
	w.process.Publish(rig.Event("last", `{"event":"last"}`))
	w.mu.Lock()
	w.fates["last"] = &fate{publisher: -1, ok: true}
	w.accepted.Add(1)
	w.mu.Unlock()
	for name, ep := range endpoints {
		missing, open, waits := "", 0, map[string]int{}
		rig.Eventually(w.t, "all deliveries to "+name+" are settled", func() bool {
			seen := map[string]bool{}
			open = 0
			clear(waits)
			for _, d := range w.process.Deliveries("tenant=acme&endpointId=" + ep.ID) {
				seen[d.S("eventId")] = true
				switch d.S("state") {
				case "DELIVERED", "DEAD", "WITHHELD", "CANCELLED":
				default:
					open++
					waits[d.S("state")+" "+d.S("reason")]++
				}
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			missing = ""
			for id, f := range w.fates {
				if f.ok && !seen[id] {
					missing = id
				}
			}
			return open == 0 && missing == ""
		}, func() string {
			before := w.partner.answered.Load()
			time.Sleep(time.Second)
			return fmt.Sprintf("%d are open, %v; missing: %s; %d requests in a second", open, waits, missing, w.partner.answered.Load()-before)
		})
	}
}

// check holds the view and what the partner got against what the publishers were told.
func (w *world) check(endpoints map[string]rig.Endpoint) {
	t := w.t
	w.mu.Lock()
	defer w.mu.Unlock()
	w.partner.mu.Lock()
	defer w.partner.mu.Unlock()

	reached := map[string]int{} // endpoints by event
	states := map[string]int{}
	for name, ep := range endpoints {
		seen := map[string]bool{}
		for _, d := range w.process.Deliveries("tenant=acme&endpointId=" + ep.ID) {
			id, event := d.S("id"), d.S("eventId")
			if seen[event] {
				t.Errorf("%s has two deliveries to %s", event, name)
			}
			seen[event] = true
			states[d.S("state")]++
			if w.fates[event] == nil {
				t.Errorf("a delivery of %s, which nobody published", event)
			}
			if d.S("state") != "DELIVERED" {
				t.Errorf("%s to %s ended as %s, %s", event, name, d.S("state"), d.S("reason"))
			}
			if !slices.ContainsFunc(w.partner.receipts[id], func(r receipt) bool { return r.ok && r.event == event }) {
				t.Errorf("%s to %s is DELIVERED in the view, and was not received", event, name)
			}
			reached[event]++
		}
	}
	unknown := 0
	for event, f := range w.fates {
		switch n := reached[event]; {
		case f.ok && n != len(endpoints):
			t.Errorf("%s was accepted, and reached %d of %d endpoints", event, n, len(endpoints))
		case !f.ok && n != 0 && n != len(endpoints):
			t.Errorf("%s, of unknown fate, reached %d of %d endpoints", event, n, len(endpoints))
		case !f.ok && n != 0:
			unknown++
		}
	}
	w.checkOrder()
	duplicates, latest := w.checkDuplicates()
	t.Logf("%d kills and pauses; %d events accepted, %d more kept without an answer; %v; %d requests, %d duplicates, ended at most %v before a kill",
		len(w.breaks), w.accepted.Load(), unknown, states, w.partner.answered.Load(), duplicates, latest.Round(time.Millisecond))
}

// checkOrder holds the first successes at the ordered endpoint against the order in which each publisher published.
func (w *world) checkOrder() {
	last := map[int]int{}
	for _, event := range w.partner.order["/ordered"] {
		f := w.fates[event]
		if f == nil {
			w.t.Errorf("%s was received, and nobody published it", event)
			continue
		}
		if was, ok := last[f.publisher]; ok && f.number < was {
			w.t.Errorf("ordered: %s came after number %d of the same publisher", event, was)
		}
		last[f.publisher] = f.number
	}
}

// checkDuplicates allows a delivery to come again after a success only where a kill followed that success within the last group,
// or cut it off.
func (w *world) checkDuplicates() (duplicates int, latest time.Duration) {
	for _, id := range slices.Sorted(maps.Keys(w.partner.receipts)) {
		var ends []receipt
		for _, r := range w.partner.receipts[id] {
			if r.ok {
				ends = append(ends, r)
			}
		}
		for i := 1; i < len(ends); i++ {
			duplicates++
			gap := time.Duration(-1)
			for _, b := range w.breaks {
				if b.cutOff(ends[i-1].arrived) && b.at.Before(ends[i].arrived) && (b.path == "" || b.path == ends[i].path) {
					gap = max(0, b.at.Sub(ends[i-1].answered))
					break
				}
			}
			latest = max(latest, gap)
			if gap < 0 {
				w.t.Errorf("%s to %s came twice without a kill in between: %v and %v", ends[i].event, ends[i].path, ends[i-1].answered, ends[i].arrived)
			} else if gap > lastGroup {
				w.t.Errorf("%s to %s came again although it had ended %v before the kill", ends[i].event, ends[i].path, gap)
			}
		}
	}
	return duplicates, latest
}
