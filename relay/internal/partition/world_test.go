package partition

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/courier"
	"github.com/sealpost/sealpost/relay/internal/egress"
	"github.com/sealpost/sealpost/relay/internal/erasure"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/keys"
	"github.com/sealpost/sealpost/relay/internal/lane"
	"github.com/sealpost/sealpost/relay/internal/owner"
	"github.com/sealpost/sealpost/relay/internal/record"
	"github.com/sealpost/sealpost/relay/internal/registry"
	"github.com/sealpost/sealpost/relay/internal/retry"
	"github.com/sealpost/sealpost/signer"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// world is a real journal and registry, and a receiver's end that a script speaks for.
type world struct {
	testing.TB
	dir      string
	journal  *journal.Journal
	registry *registry.Registry
	erasures *erasure.Set
	root     *keys.Root
	*partner
	offset  atomic.Int64 // of the clock
	fenced  bool         // an owner that is pushed out stays out
	read    []relay.Outcome
	readTo  uint64 // of OUTCOMES
	events  int
	options func(*Options)
	running atomic.Pointer[loop]
	stop    context.CancelFunc
	ended   chan error
}

func newWorld(tb testing.TB, change ...func(*Options)) *world {
	tb.Helper()
	w := openWorld(tb, tb.TempDir())
	w.options = func(o *Options) {
		for _, f := range change {
			f(o)
		}
	}
	return w
}

func openWorld(tb testing.TB, dir string, change ...func(*journal.Options)) *world {
	tb.Helper()
	root, err := keys.NewRoot(bytes.Repeat([]byte{1}, keys.Size))
	if err != nil {
		tb.Fatal(err)
	}
	w := &world{TB: tb, dir: dir, root: root, partner: newPartner(tb), options: func(*Options) {}}
	options := journal.Options{Dir: dir, MinFreeDisk: -1, EventsMaxBytes: 1 << 30, OutcomesMaxBytes: 1 << 30}
	for _, f := range change {
		f(&options)
	}
	w.journal, err = journal.Open(tb.Context(), options)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := w.journal.Close(ctx); err != nil {
			tb.Error(err)
		}
	})
	bucket, err := w.journal.Bucket(tb.Context(), registry.BucketName)
	if err != nil {
		tb.Fatal(err)
	}
	if w.registry, err = registry.Open(tb.Context(), bucket, root, registry.Options{}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(w.registry.Close)
	tombstones, err := w.journal.Bucket(tb.Context(), erasure.BucketName)
	if err != nil {
		tb.Fatal(err)
	}
	if w.erasures, err = erasure.Open(tb.Context(), tombstones, root, slog.New(slog.DiscardHandler)); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(w.erasures.Close)
	tb.Cleanup(w.shut)
	return w
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.offset.Load())) }

// later moves the owner's clock.
func (w *world) later(d time.Duration) { w.offset.Add(int64(d)) }

// endpoint registers an endpoint of the tenant acme for contact.*, changed by change.
func (w *world) endpoint(id string, change ...func(*registry.Record)) {
	w.Helper()
	key, err := signer.GenerateKey(signer.Standard)
	if err != nil {
		w.Fatal(err)
	}
	sealed, err := registry.NewVault(w.root, "acme", id).Key(key, time.Now())
	if err != nil {
		w.Fatal(err)
	}
	made := time.Now().Add(-time.Hour)
	r := &registry.Record{
		ID: id, Tenant: "acme", State: relay.EndpointActive, CreateTime: made, UpdateTime: made, ApproveTime: made, Keys: []registry.Key{sealed},
		Settings: registry.Settings{
			URL: "https://hooks.partner.example/" + id, EventTypes: []string{"contact.*"}, Scheme: signer.Standard,
			ContentMode: relay.ContentEnvelope, Redaction: relay.Redaction{Mode: relay.RedactionDenyListed, Drop: []string{"**.ssn"}},
			ChunkBytes: relay.MinChunkBytes, Concurrency: 8, Timeout: relay.DefaultTimeout, RetryFor: relay.DefaultRetryFor,
		},
	}
	for _, f := range change {
		f(r)
	}
	if _, err := w.registry.Create(w.Context(), r); err != nil {
		w.Fatal(err)
	}
}

func ordered(r *registry.Record) { r.Settings.Ordered = true }

// change changes an endpoint and returns the registry's revision after it.
func (w *world) change(id string, f func(*registry.Record)) uint64 {
	w.Helper()
	ep, err := w.registry.Change(w.Context(), id, 0, func(r *registry.Record) error { f(r); return nil })
	if err != nil {
		w.Fatal(err)
	}
	return ep.Revision
}

func (w *world) state(id string, s relay.EndpointState) uint64 {
	return w.change(id, func(r *registry.Record) { r.State = s })
}

// publish has an event accepted and returns its sequence.
func (w *world) publish(eventType, data string) uint64 {
	w.Helper()
	w.events++
	return w.accept(fmt.Sprint("evt_", w.events), eventType, data)
}

func (w *world) accept(id, eventType, data string) uint64 {
	w.Helper()
	ev := &relay.Event{Tenant: "acme", ID: id, Type: eventType, Time: time.Now(), Subject: "contact/1", Data: []byte(data)}
	payload, err := record.EncodeEvent(nil, ev)
	if err != nil {
		w.Fatal(err)
	}
	receipt, err := w.journal.Events(0).Accept(w.Context(), journal.Entry{ID: "acme." + id, Digest: sha256.Sum256(payload), Payload: payload})
	if err != nil {
		w.Fatal(err)
	}
	return receipt.Seq
}

// many publishes n events of contact.updated and returns their sequences.
func (w *world) many(n int) (seqs []uint64) {
	for range n {
		seqs = append(seqs, w.publish("contact.updated", `{"n":1}`))
	}
	return seqs
}

func (w *world) made() Options {
	o := Options{
		Journal: w.journal, Registry: w.registry, Erasures: w.erasures, Courier: w.partner, Schedule: retry.Schedule{Intervals: []time.Duration{5 * time.Millisecond}},
		SyncEvery: 2 * time.Millisecond, CheckpointEvery: 20 * time.Millisecond, Clock: w.now, StopGrace: 5 * time.Second,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Metrics: NewMetrics(prometheus.NewRegistry()),
	}
	w.options(&o)
	return o
}

// start owns the partition. As an app does, it tries again where what a killed run appended comes in late.
func (w *world) start() {
	w.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	w.stop, w.ended = stop, ended
	owned := make(chan struct{})
	go func() {
		var err error
		for tries := 0; tries == 0 || tries < 50 && errors.Is(err, journal.ErrFenced) && !w.fenced; tries++ {
			var l *loop
			if l, err = start(context.Background(), w.made()); err != nil {
				continue
			}
			if w.running.Swap(l) == nil {
				close(owned)
			}
			err = l.run(ctx)
		}
		ended <- err
	}()
	select {
	case <-owned:
	case err := <-ended:
		w.Fatal(err)
	}
}

// do has the owner's loop do something, and waits for it.
func (w *world) do(f func(*loop)) {
	w.Helper()
	done := make(chan struct{})
	var once sync.Once
	w.until("the loop's attention", func() bool {
		select {
		case w.running.Load().commandC <- command{run: func(l *loop) { f(l); once.Do(func() { close(done) }) }, answer: func(error) {}}:
		default:
			return false
		}
		select {
		case <-done:
			return true
		case <-time.After(time.Second):
			return false
		}
	})
}

// finish stops the owner in order.
func (w *world) finish() {
	w.Helper()
	w.stop()
	if err := w.await(); err != nil {
		w.Fatalf("stopped with %v", err)
	}
}

var errCrash = errors.New("killed by the test")

// crash ends the owner as kill -9 would: nothing more is recorded, synced or saved.
func (w *world) crash() {
	w.Helper()
	for {
		select {
		case w.running.Load().routedC <- routed{err: errCrash}:
		case <-time.After(10 * time.Millisecond):
		}
		select {
		case err := <-w.ended:
			if !errors.Is(err, errCrash) {
				w.Fatalf("killed, it ended with %v", err)
			}
			w.running.Store(nil)
			w.stop()
			return
		case <-time.After(100 * time.Millisecond): // another run had taken its place
		}
	}
}

func (w *world) await() error {
	w.Helper()
	select {
	case err := <-w.ended:
		w.running.Store(nil)
		w.stop()
		return err
	case <-time.After(patience):
		w.Fatal("the owner does not end")
		return nil
	}
}

// shut ends what a failed test left running.
func (w *world) shut() {
	if w.running.Load() != nil {
		w.partner.release()
		w.stop()
		<-w.ended
	}
}

// outcomes are the durable ones, in order.
func (w *world) outcomes() []relay.Outcome {
	w.Helper()
	log := w.journal.Outcomes(0)
	st, err := log.State(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	err = log.Range(w.Context(), w.readTo+1, st.Last, func(m journal.Message) error {
		outcomes, err := record.DecodeOutcomes(m.Payload)
		if err == nil {
			w.read, w.readTo = append(w.read, outcomes...), m.Seq
		}
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
	return w.read
}

// of are the outcomes of one delivery.
func (w *world) of(seq uint64, endpoint string) (mine []relay.Outcome) {
	w.Helper()
	for _, o := range w.outcomes() {
		if o.Seq == seq && o.EndpointID == endpoint {
			mine = append(mine, o)
		}
	}
	return mine
}

// latest is the last outcome of each delivery.
func (w *world) latest() map[owner.Key]relay.Outcome {
	w.Helper()
	last := map[owner.Key]relay.Outcome{}
	for _, o := range w.outcomes() {
		last[owner.Key{Seq: o.Seq, Endpoint: o.EndpointID}] = o
	}
	return last
}

// until waits for what must come, and says what there is when it does not.
func (w *world) until(what string, holds func() bool) {
	w.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			var there []string
			for _, k := range slices.SortedFunc(maps.Keys(w.latest()), byKey) {
				o := w.latest()[k]
				there = append(there, fmt.Sprint(k, " ", o.State, " ", o.Reason))
			}
			w.Fatalf("waited for %s; outcomes: %v", what, there)
		}
		select {
		case err := <-w.ended:
			w.ended <- err
			w.Fatalf("waited for %s, and the owner ended: %v", what, err)
		case <-time.After(8 * time.Millisecond):
		}
	}
}

func byKey(a, b owner.Key) int {
	return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Endpoint, b.Endpoint))
}

// reaches waits until the delivery's last outcome is this one.
func (w *world) reaches(seq uint64, endpoint string, state relay.DeliveryState, reason relay.Reason) relay.Outcome {
	w.Helper()
	var last relay.Outcome
	w.until(fmt.Sprint(seq, " ", endpoint, " ", state, " ", reason), func() bool {
		all := w.of(seq, endpoint)
		if len(all) == 0 {
			return false
		}
		last = all[len(all)-1]
		return last.State == state && (reason == "" || last.Reason == reason)
	})
	return last
}

// reachAll waits until the deliveries of all sequences to an endpoint are in that state.
func (w *world) reachAll(seqs []uint64, endpoint string, state relay.DeliveryState) {
	w.Helper()
	w.until(fmt.Sprint("all of ", endpoint, " ", state), func() bool {
		last := w.latest()
		return !slices.ContainsFunc(seqs, func(seq uint64) bool { return last[owner.Key{Seq: seq, Endpoint: endpoint}].State != state })
	})
}

// settled demands that each delivery came to exactly one terminal state, and that an outcome says so once.
func (w *world) settled() {
	w.Helper()
	ended := map[owner.Key]relay.DeliveryState{}
	for _, o := range w.outcomes() {
		k := owner.Key{Seq: o.Seq, Endpoint: o.EndpointID}
		was, before := ended[k]
		if before && o.Reason != relay.ReasonRetried {
			w.Errorf("%v: %s %s after it was %s", k, o.State, o.Reason, was)
		}
		delete(ended, k)
		if o.State.Terminal() {
			ended[k] = o.State
		}
	}
	for k, o := range w.latest() {
		if !o.State.Terminal() {
			w.Errorf("%v is left %s %s", k, o.State, o.Reason)
		}
	}
}

func (w *world) owners() Owners { return Owners{w.journal} }

func ref(seq uint64, event, endpoint string) Ref {
	return Ref{DeliveryID: relay.DeliveryID("acme", event, endpoint), EndpointID: endpoint, Seq: seq, Attempts: 1}
}

// sent is one POST as the receiver saw it.
type sent struct {
	owner.Key
	delivery string
	chunk    int // from 0
	number   int
	data     string
}

// partner is what deliveries are sent to: the real courier packs, and a script answers in place of the network.
type partner struct {
	pack *courier.Courier

	mu      sync.Mutex
	packed  map[*courier.Parcel]*relay.Delivery
	answer  func(sent) relay.Verdict // under mu
	got     []sent
	flying  map[string]int // by endpoint
	highest map[string]int
	gates   map[string]chan struct{}
	poison  string        // an event whose packing panics
	latency time.Duration // of an answer, at most
}

func newPartner(tb testing.TB) *partner {
	pool := egress.NewPool(egress.Options{})
	tb.Cleanup(pool.Close)
	c, err := courier.New(courier.Options{Pool: pool})
	if err != nil {
		tb.Fatal(err)
	}
	return &partner{pack: c, packed: map[*courier.Parcel]*relay.Delivery{}, flying: map[string]int{}, highest: map[string]int{},
		gates: map[string]chan struct{}{}}
}

func status(code int) relay.Verdict { return courier.OfStatus(code, "", time.Time{}) }

// script sets what is answered; nil is 200 to all.
func (p *partner) script(answer func(sent) relay.Verdict) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

// hang makes an endpoint keep what it gets until the gate opens.
func (p *partner) hang(endpoint string) (open func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	gate := make(chan struct{})
	p.gates[endpoint] = gate
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.gates[endpoint] == gate {
			delete(p.gates, endpoint)
			close(gate)
		}
	}
}

func (p *partner) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, gate := range p.gates {
		delete(p.gates, id)
		close(gate)
	}
}

func (p *partner) received() []sent {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got)
}

// count counts the POSTs of a delivery.
func (p *partner) count(seq uint64, endpoint string) (n int) {
	for _, s := range p.received() {
		if s.Seq == seq && s.Endpoint == endpoint {
			n++
		}
	}
	return n
}

func (p *partner) inFlight(endpoint string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.flying[endpoint]
}

func (p *partner) Pack(d *relay.Delivery) (*courier.Parcel, relay.Verdict) {
	if p.poison != "" && d.EventID == p.poison {
		panic("poison")
	}
	parcel, v := p.pack.Pack(d)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.packed[parcel] = d
	return parcel, v
}

func (p *partner) Send(ctx context.Context, parcel *courier.Parcel, i int) (relay.Attempt, relay.Verdict) {
	p.mu.Lock()
	d := p.packed[parcel]
	s := sent{
		Key: owner.Key{Seq: d.Seq, Endpoint: d.Endpoint.ID}, delivery: d.ID, chunk: i, number: d.Attempts + 1 + i - parcel.Next(), data: string(d.Data),
	}
	p.got = append(p.got, s)
	p.flying[s.Endpoint]++
	p.highest[s.Endpoint] = max(p.highest[s.Endpoint], p.flying[s.Endpoint])
	gate := p.gates[s.Endpoint]
	p.mu.Unlock()

	v := status(200)
	interrupted := false
	if gate == nil && p.latency > 0 {
		gate = make(chan struct{})
		time.AfterFunc(rand.N(p.latency), func() { close(gate) })
	}
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			interrupted = true
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flying[s.Endpoint]--
	switch {
	case interrupted:
		v = courier.OfFailure(egress.Cancelled)
	case p.answer != nil:
		v = p.answer(s)
	}
	if last := i+1 == parcel.Chunks(); v.Kind == relay.VerdictDone && !last {
		v.Reason = relay.ReasonChunkAccepted
	} else if v.Kind != relay.VerdictDone || last {
		delete(p.packed, parcel)
	}
	a := relay.Attempt{Number: s.number, StartTime: time.Now(), Verdict: v.Kind, Reason: v.Reason}
	if parcel.Chunks() > 1 {
		a.Chunk, a.ChunkTotal = i+1, parcel.Chunks()
	}
	return a, v
}

// impatient has what waits in a lane parked soon.
func impatient(o *Options) {
	o.Limits = lane.DefaultLimits()
	o.Limits.MaxWait = 100 * time.Millisecond
}

// limits are small, so that few deliveries fill them.
func limits(l lane.Limits) func(*Options) { return func(o *Options) { o.Limits = l } }
