package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/client"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/api"
	"github.com/sealpost/sealpost/relay/internal/control"
)

// flaky is the events' part of a door that keeps events by id, and before that refuses what its plan says.
type flaky struct {
	api.Endpoints // nil: not called here
	api.Incidents
	api.Deliveries
	api.Operations
	api.Access
	api.Audit
	api.EventTypes
	api.System

	mu    sync.Mutex
	kept  map[string]string
	order []string
	tries map[string]int
	calls int
	at    []time.Time // of the calls
	plan  func(call int, e relay.Event, try int) error
	whole func(call int) error
	hold  chan struct{} // calls wait for it, where set
}

func newFlaky() *flaky { return &flaky{kept: map[string]string{}, tries: map[string]int{}} }

func (f *flaky) Authenticate(_ context.Context, p access.Presented) (access.Caller, error) {
	token, from := p.Token, p.Address
	if token != "good" {
		return access.Caller{}, access.ErrToken
	}
	return access.Caller{Account: "crm", Address: from}, nil
}

func (f *flaky) NoteUnauthenticated(context.Context, string, netip.Addr, error) {}

func (f *flaky) PublishEvents(ctx context.Context, _ access.Caller, events []relay.Event) ([]control.PublishResult, error) {
	f.mu.Lock()
	hold := f.hold
	f.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	f.at = append(f.at, time.Now())
	if f.whole != nil {
		if err := f.whole(f.calls); err != nil {
			return nil, err
		}
	}
	out := make([]control.PublishResult, len(events))
	for i, e := range events {
		f.tries[e.ID]++
		out[i].ID = e.ID
		if f.plan != nil {
			if out[i].Err = f.plan(f.calls, e, f.tries[e.ID]); out[i].Err != nil {
				continue
			}
		}
		if e.Time.IsZero() {
			e.Time = time.Now() // as the server does
		}
		if bad := e.Check(); bad != nil {
			out[i].Err = bad.Err()
			continue
		}
		had, ok := f.kept[e.ID]
		if ok && had != string(e.Data) {
			out[i].Err = control.ErrExists
			continue
		}
		out[i].Duplicate = ok
		f.kept[e.ID] = string(e.Data)
		if !ok {
			f.order = append(f.order, e.ID)
		}
	}
	return out, nil
}

func (f *flaky) PreviewEvent(context.Context, access.Caller, relay.Event) (string, []control.Preview, error) {
	return "", nil, errors.New("not asked for")
}

func (f *flaky) GetEvent(context.Context, access.Caller, string, string) (control.EventView, error) {
	return control.EventView{}, control.ErrNotFound
}

func (f *flaky) EraseSubject(context.Context, access.Caller, control.Erasure) (control.Operation, error) {
	return control.Operation{}, errors.New("not asked for")
}

func (f *flaky) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.kept)
}

// listen serves f at an address, or a free port; stop is idempotent.
func listen(t testing.TB, f *flaky, address string, conf *tls.Config) (string, func()) {
	t.Helper()
	s, err := api.New(api.Options{Auth: f, Noter: f, Audit: f, Events: f, Endpoints: f, EventTypes: f, Incidents: f, Deliveries: f, Operations: f, Access: f, System: f, TLS: conf})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// A test may be over before the server has begun.
		if err := s.GRPC().Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	}()
	stop := sync.OnceFunc(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.Stop(ctx)
		<-done
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func dial(t testing.TB, target string, change func(*client.Options)) *client.Client {
	t.Helper()
	o := client.Options{Target: target, Token: "good", RetryFor: 20 * time.Second}
	if change != nil {
		change(&o)
	}
	c, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func event(id string) relay.Event {
	return relay.Event{Tenant: "acme", ID: id, Type: "contact.updated", Data: []byte(`{"a":1}`)}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPublish(t *testing.T) {
	t.Parallel()
	f := newFlaky()
	f.plan = func(_ int, e relay.Event, try int) error {
		switch {
		case e.ID == "down" && try < 3:
			return control.ErrUnavailable
		case e.ID == "busy" && try < 2:
			return &control.BusyError{RetryAfter: 300 * time.Millisecond}
		case e.ID == "full":
			return &control.BusyError{RetryAfter: time.Hour}
		case e.ID == "broken":
			return errors.New("disk sda1")
		case e.ID == "foreign":
			return &control.ForbiddenError{Scope: access.EventsPublish, Reason: "no"}
		}
		return nil
	}
	target, _ := listen(t, f, "127.0.0.1:0", nil)
	c := dial(t, target, nil)
	for _, tt := range []struct {
		id        string
		code      codes.Code
		tries     int
		duplicate bool
	}{
		{"one", codes.OK, 1, false},
		{"one", codes.OK, 2, true},
		{"down", codes.OK, 3, false},
		{"busy", codes.OK, 2, false},
		{"full", codes.ResourceExhausted, 1, false}, // the time named is past the bound: nothing is waited for
		{"broken", codes.Internal, 1, false},
		{"foreign", codes.PermissionDenied, 1, false},
		{"a.b", codes.InvalidArgument, 1, false},
	} {
		began := time.Now()
		r, err := c.Publish(t.Context(), event(tt.id))
		if status.Code(err) != tt.code || r.ID != tt.id || r.Duplicate != tt.duplicate || f.tries[tt.id] != tt.tries {
			t.Errorf("%s: %+v, %v after %d tries", tt.id, r, err, f.tries[tt.id])
		}
		var failed *client.Error
		if err != nil && (!errors.As(err, &failed) || failed.EventID != tt.id) {
			t.Errorf("%s: error is %#v", tt.id, err)
		}
		if tt.id == "busy" && time.Since(began) < 300*time.Millisecond {
			t.Errorf("busy was tried again after %v", time.Since(began))
		}
	}
	_, err := c.Publish(t.Context(), event("a.b"))
	var bad relay.Invalid
	if !errors.As(err, &bad) || bad[0].Field != "id" {
		t.Errorf("violations of %v", err)
	}
	other := event("one")
	other.Data = []byte("2")
	if _, err := c.Publish(t.Context(), other); status.Code(err) != codes.AlreadyExists {
		t.Errorf("other content: %v", err)
	}
}

func TestPublishAssignsOneID(t *testing.T) {
	t.Parallel()
	f := newFlaky()
	f.plan = func(call int, _ relay.Event, _ int) error {
		if call < 3 {
			return control.ErrUnavailable
		}
		return nil
	}
	target, _ := listen(t, f, "127.0.0.1:0", nil)
	r, err := dial(t, target, nil).Publish(t.Context(), event(""))
	if err != nil || !relay.ValidEventID(r.ID) || f.tries[r.ID] != 3 {
		t.Errorf("%+v, %v, tries %v", r, err, f.tries)
	}
}

func TestPublishEndsWithItsContext(t *testing.T) {
	t.Parallel()
	f := newFlaky()
	f.plan = func(int, relay.Event, int) error { return control.ErrUnavailable }
	target, _ := listen(t, f, "127.0.0.1:0", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	c := dial(t, target, nil)
	if _, err := c.Publish(ctx, event("x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("publish: %v", err)
	}
	for _, r := range c.PublishBatch(ctx, []relay.Event{event("x"), event("y")}) {
		if !errors.Is(r.Err, context.DeadlineExceeded) {
			t.Errorf("batch: %v", r.Err)
		}
	}
	once := dial(t, target, func(o *client.Options) { o.RetryFor = -1 })
	if _, err := once.Publish(t.Context(), event("once")); status.Code(err) != codes.Unavailable || f.tries["once"] != 1 {
		t.Errorf("one try: %v after %d", err, f.tries["once"])
	}
}

func TestPublishBatch(t *testing.T) {
	t.Parallel()
	f := newFlaky()
	f.plan = func(_ int, e relay.Event, try int) error {
		if e.ID[len(e.ID)-1] == '7' && try == 1 {
			return &control.BusyError{RetryAfter: 50 * time.Millisecond}
		}
		return nil
	}
	target, _ := listen(t, f, "127.0.0.1:0", nil)
	var events []relay.Event
	for i := range 1300 {
		e := event(fmt.Sprintf("e%04d", i))
		if i == 600 {
			e.Type = "NOT A TYPE"
		}
		events = append(events, e)
	}
	results := dial(t, target, nil).PublishBatch(t.Context(), events)
	for i, r := range results {
		if r.ID != events[i].ID || (r.Err != nil) != (i == 600) {
			t.Fatalf("event %d: %+v", i, r)
		}
	}
	if f.count() != 1299 || f.calls > 6 {
		t.Errorf("%d kept in %d calls", f.count(), f.calls)
	}
	for id, n := range f.tries {
		if want := 1 + map[bool]int{true: 1}[id[len(id)-1] == '7']; n != want {
			t.Errorf("%s was tried %d times", id, n)
		}
	}
}

// collector gathers a Publisher's outcomes.
type collector struct {
	mu  sync.Mutex
	got map[string]error
	n   int
}

func (c *collector) done(r client.Receipt, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.got == nil {
		c.got = map[string]error{}
	}
	c.got[r.ID] = err
	c.n++
}

func TestPublisher(t *testing.T) {
	t.Parallel()
	f := newFlaky()
	f.plan = func(_ int, e relay.Event, try int) error {
		if e.ID[len(e.ID)-1] == '7' && try == 1 {
			return &control.BusyError{RetryAfter: 20 * time.Millisecond}
		}
		return nil
	}
	target, _ := listen(t, f, "127.0.0.1:0", nil)
	p := dial(t, target, nil).NewPublisher(client.PublisherOptions{})
	var c collector
	const n = 3000
	for i := range n {
		e := event(fmt.Sprintf("e%04d", i))
		if i == 600 {
			e.Type = "NOT A TYPE"
		}
		if err := p.Publish(t.Context(), e, c.done); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.n != n || len(c.got) != n || f.count() != n-1 {
		t.Errorf("%d outcomes of %d events, %d kept", c.n, len(c.got), f.count())
	}
	for id, err := range c.got {
		if (err != nil) != (id == "e0600") {
			t.Errorf("%s: %v", id, err)
		}
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Publish(t.Context(), event("late"), c.done); !errors.Is(err, client.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// Without refusals the order of the stream is the journal's, whatever breaks in between.
func TestPublisherOutlivesItsServer(t *testing.T) {
	t.Parallel()
	f := newFlaky()
	target, stop := listen(t, f, "127.0.0.1:0", nil)
	p := dial(t, target, nil).NewPublisher(client.PublisherOptions{MaxPending: 100})
	var c collector
	const n = 2000
	for i := range n {
		if i == 700 || i == 1400 {
			stop()
			_, stop = listen(t, f, target, nil)
		}
		if err := p.Publish(t.Context(), event(fmt.Sprintf("e%04d", i)), c.done); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for id, err := range c.got {
		if err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	if f.count() != n || c.n != n {
		t.Errorf("%d kept, %d outcomes", f.count(), c.n)
	}
	for i := 1; i < len(f.order); i++ {
		if f.order[i-1] >= f.order[i] {
			t.Fatalf("%s before %s", f.order[i-1], f.order[i])
		}
	}
}

func TestPublisherHoldsBack(t *testing.T) {
	t.Parallel()
	f := newFlaky()
	f.hold = make(chan struct{})
	target, _ := listen(t, f, "127.0.0.1:0", nil)
	c := dial(t, target, nil)
	var got collector
	for _, o := range []client.PublisherOptions{{MaxPending: 5}, {MaxPendingBytes: 5 * 600}} {
		p := c.NewPublisher(o)
		for i := range 5 {
			if err := p.Publish(t.Context(), event(fmt.Sprint("e", i)), got.done); err != nil && o.MaxPending > 0 {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := p.Publish(ctx, event("more"), got.done); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%+v: beyond the bound: %v", o, err)
		}
		if err := p.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%+v: flush: %v", o, err)
		}
		if err := p.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%+v: close: %v", o, err)
		}
		cancel()
	}
	if got.n != 10 {
		t.Errorf("%d outcomes", got.n)
	}
	for id, err := range got.got {
		if !errors.Is(err, client.ErrClosed) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func TestPublisherGivesUp(t *testing.T) {
	t.Parallel()
	f := newFlaky()
	target, _ := listen(t, f, "127.0.0.1:0", nil)
	for name, tt := range map[string]struct {
		change func(*client.Options)
		target string
		code   codes.Code
	}{
		"token": {func(o *client.Options) { o.Token = "wrong" }, target, codes.Unauthenticated},
		"source": {func(o *client.Options) {
			o.TokenSource = func(context.Context) (string, error) { return "", errors.New("gone") }
		}, target, codes.Unauthenticated},
		"nobody": {func(o *client.Options) { o.RetryFor = 200 * time.Millisecond }, "127.0.0.1:1", codes.Unavailable},
	} {
		var c collector
		p := dial(t, tt.target, tt.change).NewPublisher(client.PublisherOptions{})
		if err := p.Publish(t.Context(), event("x"), c.done); err != nil {
			t.Fatal(err)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if status.Code(c.got["x"]) != tt.code {
			t.Errorf("%s: %v", name, c.got["x"])
		}
	}
}

func TestTransport(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"relay.example:7780", "192.0.2.1:7780", "localhost.example:7780", "dns:///localhost:7780", "unix:/tmp/s", "7780", "[::ffff:192.0.2.1]:1"} {
		if _, err := client.New(client.Options{Target: target, Token: "t"}); !errors.Is(err, client.ErrInsecure) {
			t.Errorf("%s without TLS: %v", target, err)
		}
	}
	for _, o := range []client.Options{{Token: "t"}, {Target: "127.0.0.1:1"}} {
		if _, err := client.New(o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
	web := httptest.NewUnstartedServer(nil)
	web.StartTLS()
	defer web.Close()
	f := newFlaky()
	target, _ := listen(t, f, "127.0.0.1:0", &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS13})
	trusting := dial(t, target, func(o *client.Options) {
		o.TLS = &tls.Config{RootCAs: rootsOf(web), ServerName: "example.com"}
	})
	if _, err := trusting.Publish(t.Context(), event("x")); err != nil {
		t.Error(err)
	}
	wary := dial(t, target, func(o *client.Options) { o.TLS, o.RetryFor = &tls.Config{ServerName: "example.com"}, -1 })
	if _, err := wary.Publish(t.Context(), event("y")); status.Code(err) != codes.Unavailable || f.tries["y"] != 0 {
		t.Errorf("a server that is not trusted: %v", err)
	}
}
