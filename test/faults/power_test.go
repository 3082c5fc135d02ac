package faults_test

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/test/disk"
	"github.com/sealpost/sealpost/test/rig"
)

// powered is a Sealpost whose data folder is on a disk that loses power.
type powered struct {
	t     *testing.T
	disk  *disk.Disk
	dir   string // where it is mounted
	leave func() error
	p     *rig.Process
	cuts  []cutOff
}

// cutOff is a loss of power: when it was seen, and when the process was gone that it took along.
type cutOff struct{ dark, gone time.Time }

// onPowered runs a test where disks can be mounted.
func onPowered(t *testing.T, test func(*testing.T)) {
	t.Parallel()
	if mayMount() {
		test(t)
		return
	}
	if err := inOwnMounts(t); err != nil {
		t.Fatalf("with mounts of its own, which takes Linux, /dev/fuse, and to be root or to be allowed user namespaces: %v", err)
	}
}

// newPowered is one that is not started yet.
func newPowered(t *testing.T, bin string, more rig.Config) *powered {
	t.Helper()
	w := &powered{t: t, disk: disk.New(), dir: t.TempDir()}
	w.mount()
	t.Cleanup(func() {
		if err := w.leave(); err != nil {
			t.Error(err)
		}
	})
	// What comes later is ended first.
	w.p = rig.New(t, bin, rig.Dev().With(rig.Config{"log": rig.Config{"level": "info"}}).With(more))
	w.p.Data = filepath.Join(w.dir, "data")
	return w
}

func (w *powered) mount() {
	w.t.Helper()
	leave, err := w.disk.Mount(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	w.leave = leave
}

// loseAfter has the power fail after so many acts of the disk, or in a few seconds where there are not so many, while meanwhile goes
// on; chance may be nil. The disk is then what is left of it, and nothing runs.
func (w *powered) loseAfter(acts int, chance *rand.Rand, meanwhile func()) {
	w.t.Helper()
	dark := w.disk.CutAfter(acts)
	done := make(chan struct{})
	go func() { defer close(done); meanwhile() }()
	late := time.NewTimer(5 * time.Second)
	defer late.Stop()
	select {
	case <-dark:
	case <-late.C:
		w.disk.Cut()
	}
	at := time.Now()
	w.p.KillNow()
	<-done
	w.p.Kill()
	w.cuts = append(w.cuts, cutOff{at, time.Now()})
	if err := w.leave(); err != nil {
		w.t.Fatal(err)
	}
	w.disk = w.disk.Lost(chance)
	w.mount()
}

// start starts on what is there.
func (w *powered) start() error {
	if err := w.p.Begin(); err != nil {
		return fmt.Errorf("it does not start on what the power left: %w", err)
	}
	return nil
}

// atLeast is a fair chance that a cut was right after something.
func (w *powered) coveredBy(at time.Time) bool {
	return slices.ContainsFunc(w.cuts, func(c cutOff) bool { return at.Before(c.gone.Add(lastRead)) && c.dark.Sub(at) < lastGroup })
}

// lastRead is how long after the end of a process its last request may be read: it waits in a socket for a busy receiver.
const lastRead = 200 * time.Millisecond

// lastGroup is how long before a loss of power a success may have been and not be known after it: the time in which outcomes are
// gathered for one sync (50 ms), and what two busy cores may add to it.
const lastGroup = time.Second

// eventOf is an event of which everything follows from its id, so that it can be published again. One in fifty is large, so that
// the logs get more blocks.
func eventOf(id string) *sealpostv1.Event {
	h := fnv.New64a()
	h.Write([]byte(id))
	n := int(h.Sum64() % 2000)
	if h.Sum64()%50 == 0 {
		n = 400_000
	}
	return &sealpostv1.Event{Tenant: "acme", Id: id, Type: "contact.updated", Data: fmt.Appendf(nil, `{"pad":"%0*d"}`, n, 0)}
}

// press publishes one event after the other until ctx ends, and notes what was accepted. What was not answered is left.
func press(ctx context.Context, events sealpostv1.EventServiceClient, name string, b *book) {
	for n := 0; ctx.Err() == nil; n++ {
		id := fmt.Sprintf("%s-%d", name, n)
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		if _, err := events.PublishEvent(short, &sealpostv1.PublishEventRequest{Event: eventOf(id)}, grpc.WaitForReady(true)); err == nil {
			b.write(id)
		}
		cancel()
		time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
	}
}

// lost publishes accepted events again, and returns those that were not known any more.
func lost(ctx context.Context, events sealpostv1.EventServiceClient, ids []string) (gone []string, err error) {
	for _, id := range ids {
		asking, cancel := context.WithTimeout(ctx, 30*time.Second)
		r, err := events.PublishEvent(asking, &sealpostv1.PublishEventRequest{Event: eventOf(id)}, grpc.WaitForReady(true))
		cancel()
		if err != nil {
			return gone, fmt.Errorf("%s again: %w", id, err)
		}
		if !r.Duplicate {
			gone = append(gone, id)
		}
	}
	return gone, nil
}

// receipts is a receiver that keeps when it took each delivery.
type receipts struct {
	mu     sync.Mutex
	byID   map[string][]time.Time
	events map[string]map[string]bool // by path
}

func (r *receipts) ServeHTTP(_ http.ResponseWriter, req *http.Request) {
	var body struct{ ID string }
	if json.NewDecoder(req.Body).Decode(&body) != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	id := req.Header.Get("Webhook-Id")
	r.byID[id] = append(r.byID[id], time.Now())
	if r.events[req.URL.Path] == nil {
		r.events[req.URL.Path] = map[string]bool{}
	}
	r.events[req.URL.Path][body.ID] = true
}

func (r *receipts) has(path, event string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events[path][event]
}

// powerRounds is how many there are of a thing that takes a second or two.
func powerRounds(usual, many int) int {
	switch {
	case *rounds > 0:
		return *rounds
	case *long:
		return many
	}
	return usual
}

// TestPowerLoss cuts the power while events are published and delivered, endpoints are paused and resumed, the process is asked to
// stop, or starts; and starts again from what was synced, and what chance left of the rest. Every accepted event is still known
// and arrives, every act that was answered is in force, and what comes twice ended right before a cut.
func TestPowerLoss(t *testing.T) { onPowered(t, powerLoss) }

func powerLoss(t *testing.T) {
	partner := &receipts{byID: map[string][]time.Time{}, events: map[string]map[string]bool{}}
	server := rig.Serve(t, partner)
	w := newPowered(t, binary, nil)
	if err := w.start(); err != nil {
		t.Fatal(err)
	}
	endpoints := map[string]rig.Endpoint{}
	for _, path := range []string{"/plain", "/stopping"} {
		endpoints[path] = w.p.Register(server+path, rig.Object{"chunkBytes": 1 << 20}) // no event is larger
	}
	events := sealpostv1.NewEventServiceClient(w.p.Conn())
	var all book
	moments := map[string]int{}
	n := powerRounds(30, 300)
	for round := range n {
		var chance *rand.Rand
		seed := rand.Uint64()
		if round%3 > 0 {
			chance = rand.New(rand.NewPCG(seed, 0))
		}
		moment := []string{"working", "working", "stopping", "working", "starting", "acting"}[round%6]
		moments[moment]++
		acts := 1 + rand.IntN(1<<(2+rand.IntN(8)))
		var now book
		ctx, stop := context.WithCancel(t.Context())
		var publishers sync.WaitGroup
		for i := range 6 {
			publishers.Go(func() { press(ctx, events, fmt.Sprintf("r%d-%d", round, i), &now) })
		}
		rig.Eventually(t, "events are accepted", func() bool { return len(now.read()) > 50 })
		wish, told := "", false
		switch moment {
		case "working":
			w.loseAfter(acts, chance, func() {})
		case "stopping":
			w.loseAfter(acts, chance, w.p.Terminate)
		case "starting":
			w.p.Kill()
			w.cuts = append(w.cuts, cutOff{time.Now(), time.Now()})
			w.loseAfter(acts, chance, func() {
				if err := w.p.Begin(); err == nil {
					return
				}
			})
		case "acting":
			wish = []string{"pause", "resume"}[round/6%2]
			ep := endpoints["/stopping"]
			w.loseAfter(1+rand.IntN(100), chance, func() {
				body := fmt.Appendf(nil, `{"tenant":%q}`, ep.Tenant)
				a, err := w.p.Send("POST", "/v1/endpoints/"+ep.ID+":"+wish, "application/json", body)
				told = err == nil && a.Status == http.StatusOK
			})
		}
		stop()
		publishers.Wait()
		began := time.Now()
		if err := w.start(); err != nil {
			t.Fatalf("round %d, %s, after %d acts, seed %d: %v\n%s", round+1, moment, acts, seed, err, w.p.Tail())
		}
		took := time.Since(began)
		accepted := now.read()
		gone, err := lost(t.Context(), events, accepted)
		if err != nil {
			t.Fatalf("%v\n%s", err, w.p.Tail())
		}
		if len(gone) > 0 {
			t.Errorf("round %d, %s, after %d acts, seed %d: %d of %d accepted events are lost, the first %s", round+1, moment, acts, seed, len(gone), len(accepted), gone[0])
		}
		if told {
			state := w.p.OK("GET", endpoints["/stopping"].Path(), nil).S("state")
			if want := map[string]string{"pause": "PAUSED", "resume": "ACTIVE"}[wish]; state != want {
				t.Errorf("round %d: %s was answered, and the endpoint is %s", round+1, wish, state)
			}
		}
		for _, id := range accepted {
			all.write(id)
		}
		t.Logf("round %d, %s, %d acts, chance %v: %d accepted, %d lost; acted %v; ready again in %v", round+1, moment, acts, chance != nil, len(accepted), len(gone), told, took.Round(time.Millisecond))
	}
	if w.p.OK("GET", endpoints["/stopping"].Path(), nil).S("state") == "PAUSED" {
		w.p.MustAct(endpoints["/stopping"], "resume")
	}
	w.arrived(partner, endpoints, all.read())
	w.noneTwice(partner, len(all.read()), moments)
}

// arrived waits until every accepted event has come to each endpoint, and the view says so.
func (w *powered) arrived(partner *receipts, endpoints map[string]rig.Endpoint, accepted []string) {
	w.t.Helper()
	for path, ep := range endpoints {
		missing := 0
		rig.Eventually(w.t, "every accepted event has come to "+path, func() bool {
			missing = 0
			for _, id := range accepted {
				if !partner.has(path, id) {
					missing++
				}
			}
			return missing == 0
		}, func() string { return fmt.Sprintf("%d of %d have not", missing, len(accepted)) })
		var states map[string]int
		rig.Eventually(w.t, "the view has all deliveries to "+path+" as delivered", func() bool {
			states = map[string]int{}
			seen := map[string]bool{}
			for _, d := range w.p.Deliveries("tenant=acme&endpointId=" + ep.ID) {
				states[d.S("state")]++
				seen[d.S("eventId")] = true
			}
			return states["DELIVERED"] == len(seen) && !slices.ContainsFunc(accepted, func(id string) bool { return !seen[id] })
		}, func() string { return fmt.Sprintf("%v of %d accepted", states, len(accepted)) })
	}
}

// noneTwice checks that what came again had come right before a loss of power.
func (w *powered) noneTwice(partner *receipts, accepted int, moments map[string]int) {
	partner.mu.Lock()
	defer partner.mu.Unlock()
	requests, twice := 0, 0
	for _, id := range slices.Sorted(maps.Keys(partner.byID)) {
		times := partner.byID[id]
		requests += len(times)
		for i := 1; i < len(times); i++ {
			twice++
			if !w.coveredBy(times[i-1]) {
				w.t.Errorf("%s came again at %v, although no power was lost soon after %v", id, times[i], times[i-1])
			}
		}
	}
	w.t.Logf("%d losses of power, %v: %d events accepted, %d deliveries received, %d requests, %d came again", len(w.cuts), moments, accepted, len(partner.byID), requests, twice)
}

// TestPowerLossAtFirstStart cuts the power at any moment from the making of the data folder to the first answers: the folder that
// is left starts, and has what was answered.
func TestPowerLossAtFirstStart(t *testing.T) { onPowered(t, powerLossAtFirstStart) }

func powerLossAtFirstStart(t *testing.T) {
	partner := &receipts{byID: map[string][]time.Time{}, events: map[string]map[string]bool{}}
	server := rig.Serve(t, partner)
	whole := newPowered(t, binary, nil)
	if err := whole.start(); err != nil {
		t.Fatal(err)
	}
	acts := whole.disk.Acts()
	whole.p.Kill()
	ready, answered := 0, 0
	n := powerRounds(40, 400)
	for round := range n {
		var chance *rand.Rand
		seed := rand.Uint64()
		if round%2 > 0 {
			chance = rand.New(rand.NewPCG(seed, 0))
		}
		at := rand.IntN(acts + acts/4)
		t.Run(fmt.Sprintf("round %d", round+1), func(t *testing.T) {
			w := newPowered(t, binary, nil)
			endpoint, event := "", false
			w.loseAfter(at, chance, func() {
				if w.p.Begin() != nil {
					return
				}
				ready++
				a, err := w.p.Send("POST", "/v1/endpoints", "application/json", fmt.Appendf(nil, `{"tenant":"acme","url":%q,"owner":"ops@partner.example",
					"purpose":"tests","eventTypes":["contact.*"],"redaction":{"mode":"NONE"}}`, server+"/first"))
				if err != nil || a.Status != http.StatusOK {
					return
				}
				endpoint = a.S("endpoint", "id")
				a, err = w.p.Send("POST", "/v1/events", "application/json", fmt.Appendf(nil, `{"tenant":"acme","id":"first-%d","type":"contact.updated","data":{}}`, round))
				event = err == nil && a.Status == http.StatusOK
			})
			if err := w.start(); err != nil {
				t.Fatalf("cut before act %d of %d, seed %d, chance %v: %v\n%s", at, acts, seed, chance != nil, err, w.p.Tail())
			}
			if endpoint != "" {
				answered++
				if a := w.p.Do("GET", "/v1/endpoints/"+endpoint+"?tenant=acme", nil); a.Status != http.StatusOK {
					t.Errorf("cut before act %d of %d, seed %d: the endpoint is gone: %d %s", at, acts, seed, a.Status, a.Raw)
				}
			}
			ep := w.p.Register(server+"/after", nil)
			w.p.Publish(rig.Event(fmt.Sprintf("after-%d", round), `{}`))
			w.p.AwaitDelivery(ep, fmt.Sprintf("after-%d", round), "DELIVERED")
			if event {
				rig.Eventually(t, "the event that was accepted before arrives", func() bool { return partner.has("/first", fmt.Sprintf("first-%d", round)) })
			}
		})
	}
	t.Logf("%d first starts of %d acts: %d were ready when the power went, %d had answered", n, acts, ready, answered)
}

// TestPowerLossWithoutSync is the proof that the tests above can fail: of a Sealpost that answers without having synced EVENTS a
// loss of power takes accepted events.
func TestPowerLossWithoutSync(t *testing.T) { onPowered(t, powerLossWithoutSync) }

func powerLossWithoutSync(t *testing.T) {
	w := newPowered(t, broken(t, defect{"relay/internal/journal/accept.go", "err := e.disk.sync()", "var err error"}), nil)
	if err := w.start(); err != nil {
		t.Fatal(err)
	}
	events := sealpostv1.NewEventServiceClient(w.p.Conn())
	var now book
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var publishers sync.WaitGroup
	for i := range 6 {
		publishers.Go(func() { press(ctx, events, fmt.Sprintf("p%d", i), &now) })
	}
	rig.Eventually(t, "events are accepted", func() bool { return len(now.read()) > 200 })
	w.loseAfter(1, nil, func() {})
	stop()
	publishers.Wait()
	accepted := now.read()
	if err := w.start(); err != nil {
		t.Logf("%d events were accepted without a sync, and it does not even start: %v", len(accepted), err)
		return
	}
	gone, err := lost(t.Context(), events, accepted)
	t.Logf("of %d events accepted without a sync %d are lost; %v", len(accepted), len(gone), err)
	if len(gone) == 0 {
		t.Error("nothing was lost: these tests cannot fail")
	}
}
