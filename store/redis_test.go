package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/store"
	"github.com/sealpost/sealpost/store/redistest"
	"github.com/sealpost/sealpost/store/storetest"
)

func TestRedisTLS(t *testing.T) {
	t.Parallel()
	s := redistest.StartTLS(t)
	l := open(t, s.URL("tls:"))
	defer l.Close()
	project(t, l, log(50))
	if got := count(t, l); got != 50 {
		t.Fatalf("%d deliveries, want 50", got)
	}
	// Without our root the server is not trusted, and without a certificate it does not trust us.
	for name, cut := range map[string]string{"root": "ca", "certificate": "cert"} {
		url := without(s.URL("tls:"), cut)
		if cut == "cert" {
			url = without(url, "key")
		}
		other, err := store.Open(context.Background(), url, store.Options{})
		if err == nil {
			err = other.Ping(context.Background())
			other.Close()
		}
		if err == nil {
			t.Fatalf("without a %s: no error", name)
		}
		if strings.Contains(err.Error(), s.Password()) {
			t.Fatalf("the error shows the password")
		}
	}
}

// without removes a parameter of a URL.
func without(url, name string) string {
	base, query, _ := strings.Cut(url, "?")
	var kept []string
	for part := range strings.SplitSeq(query, "&") {
		if !strings.HasPrefix(part, name+"=") {
			kept = append(kept, part)
		}
	}
	return base + "?" + strings.Join(kept, "&")
}

func TestRedisCluster(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	storetest.Run(t, onRedis(c.URL))
}

// log is a partition's log of n deliveries, over as many tenants as make up several slots.
func log(n int) []relay.SequencedOutcome {
	out := make([]relay.SequencedOutcome, n)
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for i := range out {
		tenant, event := fmt.Sprintf("tenant-%d", i%17), fmt.Sprintf("evt-%d", i)
		state := []relay.DeliveryState{relay.Delivered, relay.Delivered, relay.Parked}[i%3]
		out[i] = relay.SequencedOutcome{Sequence: uint64(i) + 1, Outcome: relay.Outcome{
			DeliveryID: relay.DeliveryID(tenant, event, "ep_1"), Tenant: tenant, EndpointID: "ep_1", EventID: event,
			EventType: "contact.updated", AcceptTime: start.Add(time.Duration(i) * time.Second), State: state,
			Time: start, Attempts: 1, Attempt: &relay.Attempt{Number: 1, StatusCode: 200, ResponseBody: []byte("ok")},
		}}
	}
	return out
}

// project applies the log from wherever the ledger is, in groups, as a projector does; it starts over where the
// position was lost.
func project(t testing.TB, l relay.Ledger, log []relay.SequencedOutcome) {
	t.Helper()
	ctx := context.Background()
	for {
		at, err := l.Position(ctx, 0)
		if err != nil {
			t.Fatal(err)
		}
		for at < uint64(len(log)) {
			to := min(at+50, uint64(len(log)))
			if err = l.Apply(ctx, 0, to, log[at:to]); err != nil {
				break
			}
			at = to
		}
		if err == nil {
			return
		}
		if !errors.Is(err, relay.ErrPositionLost) {
			t.Fatal(err)
		}
	}
}

func count(t testing.TB, l relay.Ledger) int {
	t.Helper()
	q := relay.DeliveryQuery{AllTenants: true, PageSize: 1000}
	n := 0
	for {
		p, err := l.Deliveries(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		n += len(p.Deliveries)
		if q.PageToken = p.NextPageToken; q.PageToken == "" {
			return n
		}
	}
}

func TestRedisFlushedAmid(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := open(t, s.URL("f:"))
	defer l.Close()
	ctx := context.Background()
	all := log(600)
	project(t, l, all[:400])
	if err := s.Client().FlushAll(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	if err := l.Apply(ctx, 0, 450, all[400:450]); !errors.Is(err, relay.ErrPositionLost) {
		t.Fatalf("apply after FLUSHALL: %v", err)
	}
	if n := count(t, l); n != 0 {
		t.Fatalf("%d deliveries came from a group that was refused", n)
	}
	if at, err := l.Position(ctx, 0); at != 0 || err != nil {
		t.Fatalf("position %d, %v", at, err)
	}
	project(t, l, all)
	if n := count(t, l); n != 600 {
		t.Fatalf("%d deliveries after rebuilding, want 600", n)
	}
}

// TestRedisFlushedAnytime empties the server again and again while a group is applied: between any two of its
// commands, sooner or later. At the end all is there, each time.
func TestRedisFlushedAnytime(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := open(t, s.URL("f:"))
	defer l.Close()
	all := log(1000)
	for range 5 {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		client := s.Client()
		go func() {
			for range 30 {
				if err := client.FlushAll(ctx).Err(); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
		project(t, l, all)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		cancel()
		project(t, l, all[:len(all)-1]) // sees a flush that came after its last group
		if at, _ := l.Position(context.Background(), 0); at != 1000 {
			project(t, l, all)
		}
		if n := count(t, l); n != 1000 {
			t.Fatalf("%d deliveries, want 1000", n)
		}
	}
}

func TestRedisRestartedEmpty(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := open(t, s.URL("f:"))
	defer l.Close()
	all := log(300)
	project(t, l, all[:200])
	s.Kill()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := l.Apply(ctx, 0, 250, all[200:250]); err == nil || errors.Is(err, relay.ErrPositionLost) {
		t.Fatalf("apply without a server: %v", err)
	}
	if err := l.Ping(ctx); err == nil {
		t.Fatal("ping without a server")
	}
	s.Restart() // its scripts are gone too
	project(t, l, all)
	if n := count(t, l); n != 300 {
		t.Fatalf("%d deliveries after rebuilding, want 300", n)
	}
}

// TestRedisAbsentAtStart: the relay starts without its view, which comes later.
func TestRedisAbsentAtStart(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Kill()
	l := open(t, s.URL("f:")+"&timeout=2s")
	defer l.Close()
	if err := l.Ping(context.Background()); err == nil {
		t.Fatal("ping without a server")
	}
	s.Restart()
	project(t, l, log(10))
	if n := count(t, l); n != 10 {
		t.Fatalf("%d deliveries, want 10", n)
	}
}

// TestRedisClusterNodeEmptied: FLUSHALL on a cluster empties the node that it is sent to, and the position may be on
// another.
func TestRedisClusterNodeEmptied(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	all := log(500)
	for i, node := range c.Nodes {
		l := open(t, c.URL("f:"))
		project(t, l, all)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if err := node.Client().FlushAll(context.Background()).Err(); err != nil {
			t.Fatal(err)
		}
		l = open(t, c.URL("f:"))
		if at, err := l.Position(context.Background(), 0); at != 0 || err != nil {
			t.Fatalf("position %d after node %d was emptied, %v", at, i, err)
		}
		project(t, l, all)
		if n := count(t, l); n != 500 {
			t.Fatalf("%d deliveries after rebuilding, want 500", n)
		}
		l.Close()
	}
}

// TestRedisTwoWriters: one that lost its partition cannot move the position, and its late groups undo nothing.
func TestRedisTwoWriters(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	ctx := context.Background()
	old, current := open(t, s.URL("f:")), open(t, s.URL("f:"))
	defer old.Close()
	defer current.Close()
	all := log(100)
	done := all[2] // parked; delivered later
	done.Sequence, done.State, done.Attempts = 101, relay.Delivered, 1
	all = append(all, done)
	project(t, old, all[:50])
	project(t, current, all)
	if err := old.Apply(ctx, 0, 60, all[50:60]); !errors.Is(err, relay.ErrPositionLost) {
		t.Fatalf("the old writer: %v", err)
	}
	d, err := current.Delivery(ctx, done.Tenant, done.DeliveryID)
	if err != nil || d.State != relay.Delivered || len(d.History) != 1 {
		t.Fatalf("%+v, %v", d, err)
	}
}

// TestRedisPrefixes: two views on one server do not see each other.
func TestRedisPrefixes(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	a, b := open(t, s.URL("a:")), open(t, s.URL("b:"))
	defer a.Close()
	defer b.Close()
	project(t, a, log(20))
	if at, err := b.Position(context.Background(), 0); at != 0 || err != nil {
		t.Fatalf("position %d, %v", at, err)
	}
	if n := count(t, b); n != 0 {
		t.Fatalf("%d deliveries under another prefix", n)
	}
	for _, key := range s.Client().Keys(context.Background(), "*").Val() {
		if !strings.HasPrefix(key, "a:") && !strings.HasPrefix(key, "b:") {
			t.Fatalf("key %q is under neither prefix", key)
		}
	}
}

// TestRedisTrimLeavesNothing: retention bounds the server's memory, so that a delivery leaves no key behind.
func TestRedisTrimLeavesNothing(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := open(t, s.URL("f:"))
	defer l.Close()
	all := log(60)
	for i := range all {
		all[i].State = relay.Dead
		all[i].Attempts, all[i].Attempt = 2, &relay.Attempt{Number: 2}
	}
	project(t, l, all)
	if n, err := l.Trim(context.Background(), time.Now().AddDate(100, 0, 0), 0); n != 60 || err != nil {
		t.Fatalf("%d removed, %v", n, err)
	}
	client := s.Client()
	for _, key := range client.Keys(context.Background(), "*").Val() {
		switch {
		case strings.HasPrefix(key, "f:{:}"):
		case strings.HasSuffix(key, "}:b"):
			if n, err := client.Get(context.Background(), key).Int(); n != 0 || err != nil {
				t.Fatalf("%s is %d, %v", key, n, err)
			}
		default:
			t.Fatalf("key %q is left", key)
		}
	}
}

func TestRedisRefused(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	ctx := context.Background()
	url := strings.Replace(s.URL("f:"), "s3cret", "wr0ng", 1)
	if _, err := store.Open(ctx, url, store.Options{}); err == nil || strings.Contains(err.Error(), "wr0ng") {
		t.Fatalf("with a wrong password: %v", err)
	}
	if err := s.Client().Set(ctx, "f:{:}schema", "2", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(ctx, s.URL("f:"), store.Options{}); err == nil || !strings.Contains(err.Error(), `schema: "2"`) {
		t.Fatalf("with a newer schema: %v", err)
	}
}
