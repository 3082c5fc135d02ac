package journal

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// natsServer starts a NATS server that listens on a port of its own.
func natsServer(t *testing.T, o server.Options) *server.Server {
	t.Helper()
	o.Host, o.NoSigs, o.NoLog, o.SyncAlways = "127.0.0.1", true, true, o.JetStream
	if o.Port == 0 {
		o.Port = server.RANDOM_PORT
	}
	if o.JetStream && o.StoreDir == "" {
		o.StoreDir = t.TempDir()
	}
	if o.JetStreamMaxStore == 0 {
		o.JetStreamMaxStore = 1 << 50 // the streams' bounds are reserved, not used
	}
	s, err := server.NewServer(&o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("server not ready")
	}
	return s
}

func TestExternal(t *testing.T) {
	t.Parallel()
	s := natsServer(t, server.Options{JetStream: true})
	o := Options{URL: s.ClientURL(), Durability: Fsync, Partitions: 3}
	j := open(t, o)
	if got, want := j.MaxEventBytes(), 1<<20-payloadMargin; got != want {
		t.Errorf("event bound %d, want the server's %d", got, want)
	}
	first := mustAccept(t, j, "1", "one")
	if r := mustAccept(t, j, "1", "one"); !r.Duplicate || r.Seq != first.Seq || !r.Time.Equal(first.Time) {
		t.Errorf("repeat %+v, first %+v", r, first)
	}
	if _, err := j.Events(0).Accept(t.Context(), entry("1", "other")); !errors.Is(err, ErrConflict) {
		t.Errorf("conflict: %v", err)
	}
	if _, err := j.Events(2).Accept(t.Context(), entry("1", "other")); err != nil {
		t.Errorf("the id in another partition: %v", err)
	}
	// A second process on the same journal.
	other := open(t, o)
	if r := mustAccept(t, other, "1", "one"); !r.Duplicate || r.Seq != first.Seq {
		t.Errorf("repeat at another process: %+v", r)
	}
	a, b := appender(t, j), appender(t, other)
	if _, err := a.Append(t.Context(), []byte("1"), []byte("2")); err != nil {
		t.Fatal(err)
	}
	if seq, err := a.Sync(t.Context()); err != nil || seq != 2 {
		t.Fatalf("sync: %d, %v", seq, err)
	}
	if _, err := b.Append(t.Context(), []byte("x"), []byte("y"), []byte("z")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Sync(t.Context()); !errors.Is(err, ErrFenced) {
		t.Errorf("late writer: %v", err)
	}
	var read []string
	if err := other.Outcomes(0).Read(t.Context(), 1, func(m Message) error {
		if read = append(read, string(m.Payload)); len(read) == 2 {
			return errEnough
		}
		return nil
	}); err != errEnough || strings.Join(read, "") != "12" {
		t.Errorf("read %q, %v", read, err)
	}
	// Trimming is exact there, in steps.
	fill(t, j, 200, 10)
	if err := j.Events(0).Trim(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	if st, err := j.Events(0).State(t.Context()); err != nil || st.First != 101 {
		t.Errorf("trimmed: %+v, %v", st, err)
	}
	data := checkpoint(3<<20, 1)
	if err := j.SaveCheckpoint(t.Context(), 2, data); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := other.LoadCheckpoint(t.Context(), 2); err != nil || !ok || !bytes.Equal(got, data) {
		t.Errorf("checkpoint: %d bytes, %v, %v", len(got), ok, err)
	}
	if st := j.Status(t.Context()); !st.Connected || !st.JetStream || st.Failure != nil || len(st.Streams) != 10 || st.ServerVersion == "" {
		t.Errorf("status %+v", st)
	}
	o.Partitions = 4
	if _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "can't change") {
		t.Errorf("with another number of partitions: %v", err)
	}
}

// The server goes away in the middle, and comes back: nothing answered with OK
// is missing, and the journal goes on.
// What is appended without waiting goes out record by record, each when the one before it is acknowledged, and in its order.
func TestExternalAppender(t *testing.T) {
	t.Parallel()
	s := natsServer(t, server.Options{JetStream: true})
	o := Options{URL: s.ClientURL(), Durability: Fsync, Partitions: 3}
	j := open(t, o)
	if got, want := j.MaxEventBytes(), 1<<20-payloadMargin; got != want {
		t.Errorf("event bound %d, want the server's %d", got, want)
	}
	a := appender(t, j)
	const n = 300
	for i := range n {
		if seq, err := a.Append(t.Context(), []byte{byte(i)}); err != nil || seq != uint64(i+1) {
			t.Fatal(seq, err)
		}
	}
	if !a.Waiting() {
		t.Error("300 records are on their way, and the next would not wait")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // to write them again one by one would take minutes
	defer cancel()
	if seq, err := a.Sync(ctx); err != nil || seq != n {
		t.Fatalf("synced up to %d of %d: %v", seq, n, err)
	}
	if a.Waiting() {
		t.Error("all is acknowledged, and the next record would wait")
	}
	at := 0
	if err := j.Outcomes(0).Range(t.Context(), 1, n, func(m Message) error {
		if m.Seq != uint64(at+1) || m.Payload[0] != byte(at) {
			t.Fatalf("record %d is %d, at %d", at+1, m.Payload[0], m.Seq)
		}
		at++
		return nil
	}); err != nil || at != n {
		t.Fatalf("read %d of %d: %v", at, n, err)
	}
}

func TestExternalRestarts(t *testing.T) {
	t.Parallel()
	so := server.Options{JetStream: true, StoreDir: t.TempDir()}
	s := natsServer(t, so)
	so.Port = s.Addr().(*net.TCPAddr).Port
	j := open(t, Options{URL: s.ClientURL(), Durability: Fsync})
	kept := map[string]uint64{}
	accept := func(from, to int) (lost int) {
		var es []Entry
		for i := from; i < to; i++ {
			es = append(es, entry(strconv.Itoa(i), "x"))
		}
		for i, r := range j.Events(0).AcceptAll(t.Context(), es) {
			switch {
			case r.Err == nil:
				kept[es[i].ID] = r.Receipt.Seq
			case !errors.Is(r.Err, ErrUnavailable):
				t.Errorf("event %s: %v", es[i].ID, r.Err)
			default:
				lost++
			}
		}
		return lost
	}
	if n := accept(0, 500); n > 0 {
		t.Errorf("%d lost before", n)
	}
	bucket, err := j.Bucket(t.Context(), "B")
	if err != nil {
		t.Fatal(err)
	}
	watched := make(chan error, 1)
	loaded := make(chan struct{})
	go func() {
		watched <- bucket.Watch(t.Context(), func(it Item) error {
			if it.Key == "" {
				close(loaded)
			}
			return nil
		})
	}()
	<-loaded
	read := make(chan uint64, 1000)
	go j.Events(0).Read(t.Context(), 1, func(m Message) error { read <- m.Seq; return nil })
	for want := uint64(1); want <= 500; want++ {
		if got := <-read; got != want {
			t.Fatalf("read %d, want %d", got, want)
		}
	}
	s.Shutdown()
	s.WaitForShutdown()
	if err := <-watched; !errors.Is(err, ErrUnavailable) {
		t.Errorf("watch over a broken connection: %v", err)
	}
	if n := accept(500, 600); n != 100 {
		t.Errorf("%d of 100 refused while the server was away", n)
	}
	natsServer(t, so)
	// The client repeats, with the same ids, until it is answered.
	for end := time.Now().Add(30 * time.Second); accept(500, 600) > 0; {
		if time.Now().After(end) {
			t.Fatal("not back after 30 s")
		}
		time.Sleep(50 * time.Millisecond) // a client's own pace
	}
	// A reader goes on by itself, sooner than its subscription would find out, and passes nothing over.
	soon := time.After(5 * time.Second)
	for want := uint64(501); want <= 600; want++ {
		select {
		case got := <-read:
			if got != want {
				t.Fatalf("read %d after the restart, want %d", got, want)
			}
		case <-soon:
			t.Fatalf("the reader stands before %d, 5 s after the server came back", want)
		}
	}
	if err := j.Err(); err != nil || len(kept) != 600 {
		t.Errorf("kept %d of 600, %v", len(kept), err)
	}
	for id, seq := range kept {
		if m, err := j.Events(0).Get(t.Context(), seq); err != nil || string(m.Payload) != "x" {
			t.Errorf("event %s at %d: %v", id, seq, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	plain := natsServer(t, server.Options{})
	small := natsServer(t, server.Options{JetStream: true, MaxPayload: 100 << 10})
	js := natsServer(t, server.Options{JetStream: true})
	tight := natsServer(t, server.Options{JetStream: true, JetStreamMaxStore: 1 << 30})
	dir := t.TempDir()
	for _, tt := range []struct {
		o    Options
		want string
	}{
		{Options{}, "neither"},
		{Options{URL: js.ClientURL()}, "must be declared"},
		{Options{URL: js.ClientURL(), Durability: "maybe"}, "must be declared"},
		{Options{URL: js.ClientURL(), Durability: Replicated, Replicas: 1}, "3 replicas"},
		{Options{URL: js.ClientURL(), Durability: Replicated}, "replicas"}, // a server alone keeps one
		{Options{URL: js.ClientURL(), Durability: Fsync, Replicas: 7}, "at most 5"},
		{Options{URL: plain.ClientURL(), Durability: Fsync}, "JetStream"},
		{Options{URL: small.ClientURL(), Durability: Fsync}, "max_payload"},
		{Options{URL: tight.ClientURL(), Durability: Fsync}, "lower journal.eventsMaxBytes"},
		{Options{URL: "nats://127.0.0.1:1", Durability: Fsync}, "connect"},
		{Options{Dir: dir, Durability: Fsync}, "external"},
		{Options{Dir: dir, Replicas: 3}, "one replica"},
		{Options{Dir: dir, Name: "a.b"}, "name"},
		{Options{Dir: dir, Partitions: -1}, "partitions"},
		{Options{Dir: dir, Partitions: maxPartitions + 1}, "partitions"},
		{Options{Dir: dir, DedupWindow: 25 * time.Hour}, "window"},
		{Options{Dir: dir, MaxEventBytes: maxEventBytes + 1}, "bound"},
		{Options{Dir: dir, EventsMaxBytes: -1}, "positive"},
		{Options{Dir: "/dev/null/x"}, "data folder"},
	} {
		if _, err := Open(t.Context(), tt.o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Open(%+v): %v, want %q", tt.o, err, tt.want)
		}
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	for v, want := range map[string]bool{
		"2.15.0": true, "2.15.2": true, "2.16.0-beta.1": true, "3.0.0": true, "2.100.0": true,
		"2.14.9": false, "2.9.30": false, "1.99.99": false, "": false, "x": false,
	} {
		if atLeast(v, minServer) != want {
			t.Errorf("version %q: %v", v, !want)
		}
	}
}

func TestPartition(t *testing.T) {
	t.Parallel()
	j := &Journal{opt: Options{Partitions: 16}}
	// Frozen: a change would move tenants to logs that know nothing of them.
	for tenant, want := range map[string]int{"acme": 15, "globex": 14, "": 5} {
		if got := j.Partition(tenant); got != want {
			t.Errorf("tenant %q in partition %d, want %d", tenant, got, want)
		}
	}
	seen := map[int]int{}
	for i := range 1600 {
		seen[j.Partition("tenant-"+strconv.Itoa(i))]++
	}
	for p := range 16 {
		if seen[p] < 50 {
			t.Errorf("partition %d has %d of 1600 tenants", p, seen[p])
		}
	}
}
