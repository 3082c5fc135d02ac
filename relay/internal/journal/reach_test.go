package journal

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

func TestMajorityHeard(t *testing.T) {
	t.Parallel()
	const s = time.Second
	for _, c := range []struct {
		name, answer string
		ago          time.Duration
		err          error
	}{
		{"one server", `{"config":{}}`, 0, nil},
		{"one replica of a cluster", `{"cluster":{"leader":"a"}}`, 0, nil},
		{"all three", `{"cluster":{"leader":"a","replicas":[{"current":true,"active":5},{"current":true,"active":7}]}}`, 5, nil},
		{"one of two others is gone", `{"cluster":{"leader":"a","replicas":[{"active":60000000000},{"current":true,"active":1000000000}]}}`, s, nil},
		{"both are", `{"cluster":{"leader":"a","replicas":[{"current":true,"active":60000000000},{"current":true,"active":8000000000}]}}`, 8 * s, nil},
		{"two of five are", `{"cluster":{"leader":"a","replicas":[{"active":9000000000},{"active":1000000000},{"active":9000000000},{"active":2000000000}]}}`, 2 * s, nil},
		{"three of five are", `{"cluster":{"leader":"a","replicas":[{"active":9000000000},{"active":1000000000},{"active":9000000000},{"active":7000000000}]}}`, 7 * s, nil},
		{"a leader that heard nobody yet", `{"cluster":{"leader":"a","replicas":[{"offline":true},{"offline":true}]}}`, 0, ErrUnavailable},
		{"one that heard the one that counts just now", `{"cluster":{"leader":"a","replicas":[{"offline":true},{"current":true}]}}`, 0, nil},
		{"no leader", `{"cluster":{"replicas":[{"active":1},{"active":1},{"active":1}]}}`, 0, ErrUnavailable},
		{"a server that knows of none", `{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`, 0, ErrUnavailable},
		{"no such stream", `{"error":{"code":404,"err_code":10059,"description":"stream not found"}}`, 0, ErrUnavailable},
		{"garbage", `{"cluster":`, 0, ErrUnavailable},
	} {
		if ago, err := parseHeard([]byte(c.answer)); ago != c.ago || !errors.Is(err, c.err) {
			t.Errorf("%s: heard %v ago, %v; want %v, %v", c.name, ago, err, c.ago, c.err)
		}
	}
}

// What nobody can parse is no sign of life, and no time is before the answer was asked for by less than none.
func FuzzHeard(f *testing.F) {
	f.Add([]byte(`{"cluster":{"leader":"a","replicas":[{"current":true,"active":5}]}}`))
	f.Add([]byte(`{"error":{"err_code":10008}}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		ago, err := parseHeard(answer)
		if ago < 0 || ago > 0 && err != nil {
			t.Errorf("%v, %v", ago, err)
		}
	})
}

// What a leader answers is, in the form of a direct get's answer, what a replica answers.
func TestLeaderAnswersAsAnyReplica(t *testing.T) {
	t.Parallel()
	s := natsServer(t, server.Options{JetStream: true})
	j := open(t, Options{URL: s.ClientURL(), Durability: Fsync})
	fill(t, j, 20, 10)
	e := j.Events(0)
	seqs := []uint64{1, 3, 9, 20, 30}
	read := func() (out []Message) {
		t.Helper()
		for _, seq := range []uint64{1, 20, 21} {
			m, err := e.Get(t.Context(), seq)
			if seq == 21 && !errors.Is(err, ErrNotFound) || seq < 21 && err != nil {
				t.Errorf("%d: %v", seq, err)
			}
			out = append(out, m)
		}
		keep := func(m Message) error { out = append(out, m); return nil }
		if err := e.sparse(t.Context(), seqs, keep); err != nil {
			t.Error(err)
		}
		if err := e.Range(t.Context(), 2, 18, keep); err != nil {
			t.Error(err)
		}
		return out
	}
	want := read()
	j.shun()
	if got := read(); !reflect.DeepEqual(got, want) || len(got) != 3+4+17 {
		t.Errorf("by the leader %v\nby any %v", got, want)
	}
	b, err := j.Bucket(t.Context(), "B")
	if err != nil {
		t.Fatal(err)
	}
	rev, err := b.Put(t.Context(), "a/b=c.d", []byte("x"))
	if it, gets := b.Get(t.Context(), "a/b=c.d"); err != nil || gets != nil || string(it.Value) != "x" || it.Revision != rev || it.Key != "a/b=c.d" || it.Time.IsZero() {
		t.Errorf("%+v, %v, %v", it, err, gets)
	}
	if err := b.Delete(t.Context(), "a/b=c.d", rev); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"a/b=c.d", "never"} {
		if _, err := b.Get(t.Context(), gone); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", gone, err)
		}
	}
	for _, bad := range []string{"", ".a", "a.", "a..b", "a b", "a.*", ">", "ä"} {
		if _, err := b.Get(t.Context(), bad); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("key %q: %v", bad, err)
		}
	}
}

// A direct get that nobody answers is lost on one who is cut off: the leader is asked.
func TestDirectGetIsLost(t *testing.T) {
	t.Parallel()
	s := natsServer(t, server.Options{JetStream: true})
	j := open(t, Options{URL: s.ClientURL(), Durability: Fsync})
	fill(t, j, 20, 10)
	e := j.Events(0)
	// One who takes the questions, and answers none. (No client may be one of the replicas beside the server's own: so those take none.)
	config := e.stream.CachedInfo().Config
	config.AllowDirect = false
	if _, err := j.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	taken, err := j.nc.SubscribeSync("$JS.API.DIRECT.GET." + e.name)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		j.shunned.Store(0)
		if m, err := e.Get(t.Context(), 7); err != nil || m.Seq != 7 {
			t.Errorf("%+v, %v", m, err)
		}
		var got []uint64
		keep := func(m Message) error { got = append(got, m.Seq); return nil }
		j.shunned.Store(0)
		if err := e.sparse(t.Context(), []uint64{1, 8, 20}, keep); err != nil {
			t.Error(err)
		}
		j.shunned.Store(0)
		if err := e.Range(t.Context(), 4, 6, keep); err != nil || !reflect.DeepEqual(got, []uint64{1, 8, 20, 4, 5, 6}) {
			t.Errorf("%v, %v", got, err)
		}
	}
	if n, _, err := taken.Pending(); n < 9 || err != nil {
		t.Errorf("%d questions were lost: this test shows nothing: %v", n, err)
	}
}

func FuzzStored(f *testing.F) {
	f.Add([]byte(`{"message":{"subject":"a","seq":3,"hdrs":"TkFUUy8xLjANCk5hdHMtTXNnLUlkOiB4DQoNCg==","data":"eHg=","time":"2026-01-02T03:04:05.123456789Z"}}`))
	f.Add([]byte(`{"error":{"code":404,"err_code":10037,"description":"no message found"}}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		m, err := parseStored(answer)
		if (m == nil) == (err == nil) {
			t.Fatalf("%v, %v", m, err)
		}
		if m != nil && m.Header.Get("Status") == "" && m.Header.Get("Nats-Sequence") == "0" {
			t.Errorf("%v", m)
		}
	})
}
