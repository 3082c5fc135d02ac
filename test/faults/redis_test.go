package faults_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/store/redistest"
	"github.com/sealpost/sealpost/test/rig"
)

// viewed is a Sealpost whose view is in Redis, while events are published and delivered.
type viewed struct {
	t       *testing.T
	redis   *redistest.Server
	p       *rig.Process
	partner *counter
	ep      rig.Endpoint
}

// onRedis does something to Redis in the middle of a run, and checks that nothing else noticed: deliveries went on, and in the end
// the view is the ledger of what the receiver took.
func onRedis(t *testing.T, url func(*redistest.Server) string, fault func(*viewed)) {
	t.Parallel()
	w := &viewed{t: t, redis: redistest.Start(t), partner: newCounter()}
	address := w.redis.URL("faults")
	if url != nil {
		address = url(w.redis)
	}
	w.p = rig.Start(t, binary, rig.Dev().With(rig.Config{"log": rig.Config{"level": "info"}, "redis": address}))
	w.ep = w.p.Register(rig.Serve(t, w.partner)+"/hook", nil)
	var kept book
	ctx, stop := context.WithCancel(context.Background())
	events := sealpostv1.NewEventServiceClient(w.p.Conn())
	var publishers sync.WaitGroup
	defer publishers.Wait()
	defer stop()
	for i := range 4 {
		publishers.Go(func() { publishUntil(ctx, t, events, fmt.Sprintf("p%d", i), &kept) })
	}
	w.goesOn("before")
	fault(w)
	w.goesOn("after")
	stop()
	publishers.Wait()
	w.equal(kept.read())
}

// goesOn waits until some more was delivered.
func (w *viewed) goesOn(when string) {
	w.t.Helper()
	from := w.partner.taken.Load()
	rig.Eventually(w.t, "deliveries go on "+when, func() bool { return w.partner.taken.Load() > from+100 })
}

// without checks what is answered while the view is away: readiness says which part is and how, and is no less ready; questions that the view
// would answer are refused; and all else goes on.
func (w *viewed) without(how string, refused bool) {
	w.t.Helper()
	began := w.partner.taken.Load()
	var said rig.Object
	rig.Eventually(w.t, "readiness says that the view is degraded", func() bool {
		var status int
		status, said = readiness(w.t, w.p)
		if status != http.StatusOK {
			w.t.Errorf("readiness without the view: %d %v", status, said)
		}
		return strings.HasPrefix(said.S("view"), "degraded: "+how)
	}, func() string { return fmt.Sprint(said) })
	if refused {
		if a := w.p.Do("GET", "/v1/deliveries?tenant=acme", nil); a.Status != http.StatusServiceUnavailable || !strings.Contains(a.S("message"), "unavailable: the view") {
			w.t.Errorf("a list without the view: %d %.200s", a.Status, a.Raw)
		}
	}
	w.goesOn("without the view")
	w.t.Logf("without the view readiness says %v; %d requests meanwhile", said, w.partner.taken.Load()-began)
}

// equal waits until the view has what the receiver took of each accepted event, and no other.
func (w *viewed) equal(accepted []string) {
	w.t.Helper()
	rig.Eventually(w.t, "readiness says that the view is well", func() bool {
		status, said := readiness(w.t, w.p)
		return status == http.StatusOK && said.S("view") == "ok"
	})
	list := w.p.AwaitCount("tenant=acme&state=DELIVERED&endpointId="+w.ep.ID, len(accepted))
	all := w.p.Deliveries("tenant=acme&endpointId=" + w.ep.ID)
	deliveries, twice, _ := w.partner.tally()
	w.t.Logf("%d events accepted, %d deliveries received, %d of them more than once; the view has %d, %d of them delivered", len(accepted), deliveries, twice, len(all), len(list))
	if len(all) != len(list) || deliveries != len(accepted) || twice > 0 {
		w.t.Errorf("%d accepted, %d received, %d more than once, %d in the view, %d delivered", len(accepted), deliveries, twice, len(all), len(list))
	}
	w.partner.mu.Lock()
	defer w.partner.mu.Unlock()
	for _, d := range list {
		if w.partner.byID[d.S("id")] == 0 {
			w.t.Errorf("%s is delivered in the view, and was not received", d.S("id"))
		}
	}
}

// TestRedisFlushed empties Redis in the middle of a run.
func TestRedisFlushed(t *testing.T) {
	onRedis(t, nil, func(w *viewed) {
		for range 3 {
			if err := w.redis.Client().FlushAll(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			w.goesOn("while the view is rebuilt")
		}
	})
}

// TestRedisStopped has Redis answer nothing for a while, with its connections open.
func TestRedisStopped(t *testing.T) {
	onRedis(t, nil, func(w *viewed) {
		w.redis.Suspend()
		defer w.redis.Resume()
		away := *without
		if *long {
			away = time.Minute
		}
		for until := time.Now().Add(away); time.Now().Before(until); {
			w.without("cannot be reached", true)
		}
	})
}

// TestRedisRestartedEmpty kills Redis, and starts another in its place that knows nothing.
func TestRedisRestartedEmpty(t *testing.T) {
	onRedis(t, nil, func(w *viewed) {
		w.redis.Kill()
		w.without("cannot be reached", true)
		w.redis.Restart()
	})
}

// TestRedisSlow has every answer of Redis come late: the view falls behind, and catches up.
func TestRedisSlow(t *testing.T) {
	var between *slowLink
	onRedis(t, func(s *redistest.Server) string {
		between = newSlowLink(t, s.Addr())
		return strings.Replace(s.URL("faults"), s.Addr(), between.address, 1)
	}, func(w *viewed) {
		between.set(400 * time.Millisecond)
		for range 3 {
			w.goesOn("beside a slow view")
		}
		began := time.Now()
		a := w.p.Do("GET", "/v1/deliveries?tenant=acme&pageSize=10", nil)
		t.Logf("beside a slow view a list took %v: %d", time.Since(began).Round(time.Millisecond), a.Status)
		if a.Status != http.StatusOK && a.Status != http.StatusServiceUnavailable {
			t.Errorf("a list from a slow view: %d %s", a.Status, a.Raw)
		}
		between.set(0)
	})
}

// TestRedisFull lets Redis have no more memory, so that it can be read and not be written; and gives it room again.
func TestRedisFull(t *testing.T) {
	onRedis(t, nil, func(w *viewed) {
		c := w.redis.Client()
		for key, value := range map[string]string{"maxmemory-policy": "noeviction", "maxmemory": "1"} {
			if err := c.ConfigSet(t.Context(), key, value).Err(); err != nil {
				t.Fatal(err)
			}
		}
		w.without("full", false)
		if behind := w.p.Metric("sealpost_view_behind_outcomes", ""); behind == 0 {
			t.Error("the view was written all the same: this test shows nothing")
		}
		if err := c.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestOutcomesFull takes the view away until OUTCOMES, which is not trimmed of what the view does not have, is full: nothing is sent
// then, events are accepted, and with the view back there is room again and everything arrives.
func TestOutcomesFull(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	partner := newCounter()
	server := rig.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		partner.ServeHTTP(w, r)
		fmt.Fprintf(w, `{"pad":"%0*d"}`, 3500, 0) // which is kept with the outcome
	}))
	p := rig.Start(t, binary, rig.Dev().With(rig.Config{"redis": redis.URL("full"), "log": rig.Config{"level": "info"},
		"journal":   rig.Config{"minFreeDisk": -1, "outcomesMaxBytes": 24 << 20}, // blocks of 4 MiB
		"retention": rig.Config{"age": "1s", "trimEvery": "500ms"}}))
	p.Register(server+"/hook", rig.Object{"concurrency": 64})
	redis.Kill()
	accepted := 0
	rig.Eventually(t, "OUTCOMES is full", func() bool {
		accepted += len(p.PublishMany("acme", fmt.Sprint("e", accepted), 500))
		return strings.Contains(p.Output(), "full: OUTCOMES")
	})
	before := partner.taken.Load()
	time.Sleep(3 * time.Second) // some more owners begin, and end
	if now := partner.taken.Load(); now != before {
		t.Errorf("%d requests were made of which the outcomes could not be kept", now-before)
	}
	accepted += len(p.PublishMany("acme", "last", 100))
	redis.Restart()
	p.AwaitCount("tenant=acme&state=DELIVERED", accepted)
	deliveries, twice, _ := partner.tally()
	t.Logf("%d events accepted, %d delivered before OUTCOMES was full, %d deliveries received, %d of them more than once", accepted, before, deliveries, twice)
	if deliveries != accepted || twice > 200 { // what was in flight when it was full
		t.Errorf("%d deliveries of %d events, %d more than once", deliveries, accepted, twice)
	}
}

// slowLink passes bytes on between clients and a server, each of them later by a delay.
type slowLink struct {
	address string
	mu      sync.Mutex
	delay   time.Duration
}

func newSlowLink(t *testing.T, to string) *slowLink {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &slowLink{address: l.Addr().String()}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(func() { cancel(); l.Close(); all.Wait() })
	all.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			back, err := net.Dial("tcp", to)
			if err != nil {
				from.Close()
				continue
			}
			context.AfterFunc(ctx, func() { from.Close(); back.Close() })
			all.Go(func() { defer back.Close(); io.Copy(back, from) })
			all.Go(func() { defer from.Close(); s.copy(from, back) })
		}
	})
	return s
}

func (s *slowLink) set(delay time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = delay
}

func (s *slowLink) copy(to io.Writer, from io.Reader) {
	for buffer := make([]byte, 64<<10); ; {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		s.mu.Lock()
		delay := s.delay
		s.mu.Unlock()
		time.Sleep(delay)
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}
