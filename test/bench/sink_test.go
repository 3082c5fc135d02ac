package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// told is a sink in this process.
type told struct {
	t   *testing.T
	in  *json.Encoder
	out *json.Decoder
}

func newTold(t *testing.T) *told {
	orders, in := io.Pipe()
	out, answers := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- Sink(t.Context(), orders, answers) }()
	t.Cleanup(func() {
		in.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &told{t, json.NewEncoder(in), json.NewDecoder(out)}
}

func (s *told) do(o order) answer {
	s.t.Helper()
	var a answer
	if err := errors.Join(s.in.Encode(o), s.out.Decode(&a)); err != nil {
		s.t.Fatal(err)
	}
	return a
}

// TestSinkCounts sends what a relay must not send, too: the counts are what every figure rests on.
func TestSinkCounts(t *testing.T) {
	t.Parallel()
	s := newTold(t)
	url := s.do(order{Do: "listen"}).Address
	send := func(path, body string) {
		t.Helper()
		answer, err := http.Post(url+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d", path, answer.StatusCode)
		}
	}
	event := func(n int) string { return fmt.Sprintf(`{"data":{"sequence":%d}}`, n) }
	s.do(order{Do: "begin", Run: 7, First: 100, Events: 2, Endpoints: 2, Want: 4})
	send("/bare", event(0))
	send("/7/0", event(100))
	send("/7/0", event(100)) // again
	send("/7/1", event(101))
	send("/7/0", event(99))  // of the pass before
	send("/7/0", event(102)) // of none
	send("/7/2", event(100)) // an endpoint that there is none of
	send("/6/0", event(100)) // another run
	send("/7/0", `{}`)
	send("/7/x", event(100))
	send("/7/0/well", event(100))
	want := tally{Received: 2, Duplicates: 1, Strays: 6, Untracked: 1}
	if got := s.do(order{Do: "await", Run: 7, For: time.Millisecond}).tally; got != want {
		t.Errorf("counted %+v, not %+v", got, want)
	}
	send("/7/0", event(101))
	send("/7/1", event(100))
	got := s.do(order{Do: "times", Run: 7})
	if got.Received != 4 || got.Completed == 0 || len(got.Times) != 4 {
		t.Errorf("all have come, and it says %+v", got)
	}
	// Endpoint 0 had 100 first and 101 late; endpoint 1 had 101 before 100, which was the last of all.
	if at := got.Times; at[0] > at[3] || at[3] > at[1] || at[1] > at[2] || at[2] != got.Completed {
		t.Errorf("the times are %v, the last one %d", at, got.Completed)
	}
	s.do(order{Do: "begin", Run: 7, First: 102, Events: 1, Endpoints: 1, Want: 1})
	if got := s.do(order{Do: "await", Run: 7}).tally; got != (tally{Untracked: 1}) {
		t.Errorf("a new pass begins with %+v", got)
	}
}

// TestSinkSpread has two runs at a time, of which one is spread: an event that comes to another one's endpoint is a stray.
func TestSinkSpread(t *testing.T) {
	t.Parallel()
	s := newTold(t)
	url := s.do(order{Do: "listen", Everywhere: true}).Address
	send := func(host, path string, n int) {
		t.Helper()
		to := strings.Replace(url, "127.0.0.1", host, 1) + path
		answer, err := http.Post(to, "application/json", strings.NewReader(fmt.Sprintf(`{"sequence":%d}`, n)))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
	}
	s.do(order{Do: "begin", Run: 1, First: 10, Events: 4, Endpoints: 2, Spread: true, Want: 4})
	s.do(order{Do: "begin", Run: 2, Events: 1, Endpoints: 1, Want: 1})
	send("127.0.1.1", "/1/0", 10)
	send("127.0.1.2", "/1/1", 13)
	send("127.0.1.2", "/1/0", 13)
	send("127.0.1.3", "/2/0", 0)
	if got := s.do(order{Do: "await", Run: 1}).tally; got.Received != 2 || got.Strays != 1 || got.Completed != 0 {
		t.Errorf("the first run has %+v", got)
	}
	if got := s.do(order{Do: "await", Run: 2}).tally; got.Received != 1 || got.Completed == 0 {
		t.Errorf("the second run has %+v", got)
	}
	if got := s.do(order{Do: "times", Run: 1}); len(got.Times) != 4 || got.Times[0] == 0 || got.Times[3] == 0 || got.Times[1] != 0 {
		t.Errorf("the times are %v", got.Times)
	}
	s.do(order{Do: "forget", Run: 1})
	if got := s.do(order{Do: "await", Run: 1}).tally; got.Received != 0 {
		t.Errorf("forgotten, it has %+v", got)
	}
}

// dialled is a listener to which connections were made at these addresses.
type dialled struct {
	net.Listener
	at     []string
	closed int
}

type dialledConn struct {
	net.Conn
	at     net.Addr
	closed *int
}

func (c dialledConn) LocalAddr() net.Addr { return c.at }
func (c dialledConn) Close() error        { *c.closed++; return nil }

func (d *dialled) Accept() (net.Conn, error) {
	if len(d.at) == 0 {
		return nil, net.ErrClosed
	}
	at := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(d.at[0]))
	d.at = d.at[1:]
	return dialledConn{at: at, closed: &d.closed}, nil
}

func TestSinkIsOnLoopbackAlone(t *testing.T) {
	t.Parallel()
	d := &dialled{at: []string{"192.0.2.1:80", "127.0.3.4:80", "[2001:db8::1]:80", "[::ffff:127.0.0.1]:80", "10.0.0.1:80"}}
	var taken []string
	for {
		conn, err := loopbackOnly{d}.Accept()
		if err != nil {
			break
		}
		taken = append(taken, conn.LocalAddr().(*net.TCPAddr).IP.String())
	}
	if want := []string{"127.0.3.4", "127.0.0.1"}; !slices.Equal(taken, want) || d.closed != 3 {
		t.Errorf("taken %v, %d closed", taken, d.closed)
	}
}

func TestLoopbackAddresses(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for i := range 60_000 {
		address := loopbackAddress(i)
		if ip, err := netip.ParseAddr(address); err != nil || !ip.IsLoopback() || seen[address] || address == "127.0.0.1" {
			t.Fatalf("the %dth is %s (%v)", i, address, err)
		}
		seen[address] = true
	}
}

// TestSinkManners has an endpoint fall ill and recover over two loads.
func TestSinkManners(t *testing.T) {
	t.Parallel()
	s := newTold(t)
	url := s.do(order{Do: "listen"}).Address
	post := func() error {
		answer, err := http.Post(url+"/1/0", "application/json", strings.NewReader(`{"sequence":0}`))
		if err == nil {
			_, err = io.Copy(io.Discard, answer.Body)
			answer.Body.Close()
		}
		return err
	}
	s.do(order{Do: "behave", Run: 1, Manner: hangs, Which: []int{0}})
	s.do(order{Do: "begin", Run: 1, Events: 1, Endpoints: 2, Want: 1})
	for _, m := range []manner{hangs, trickles} {
		s.do(order{Do: "behave", Run: 1, Manner: m, Which: []int{0}})
		before := s.do(order{Do: "await", Run: 1}).Ill
		failed := make(chan error, 1)
		go func() { failed <- post() }()
		for s.do(order{Do: "await", Run: 1, For: time.Millisecond}).Ill == before {
		}
		s.do(order{Do: "behave", Run: 1, Manner: resets, Which: []int{0}})
		if <-failed == nil {
			t.Errorf("%s: answered", m)
		}
	}
	if post() == nil {
		t.Error("answered where it resets")
	}
	s.do(order{Do: "behave", Run: 1, Manner: paced, Which: []int{0}})
	began := time.Now()
	if err := post(); err != nil || time.Since(began) < pace {
		t.Errorf("paced, it took %v: %v", time.Since(began), err)
	}
	s.do(order{Do: "behave", Run: 1, Which: []int{0}})
	if err := post(); err != nil {
		t.Error(err)
	}
	if got := s.do(order{Do: "await", Run: 1}).tally; got.Ill != 4 || got.Received != 1 || got.Duplicates != 1 {
		t.Errorf("counted %+v", got)
	}
}

func TestSinkRefuses(t *testing.T) {
	t.Parallel()
	s := newTold(t)
	s.do(order{Do: "begin", Run: 1, Events: 1, Endpoints: 1})
	for _, o := range []order{
		{Do: "dance", Run: 1},
		{Do: "begin", Run: 1, Events: maxTracked, Endpoints: 2},
		{Do: "begin", Run: 1, Events: 1},
		{Do: "behave", Run: 1, Manner: "sings"},
		{Do: "behave", Run: 1, Manner: hangs, Which: []int{maxManners}},
		{Do: "listen", Certificate: "none"},
	} {
		if s.do(o).Error == "" {
			t.Errorf("%+v was taken", o)
		}
	}
}

func TestPassAddsUp(t *testing.T) {
	t.Parallel()
	good := Pass{Part: "p", Published: 2, Acknowledged: 2, Expected: 4, Received: 4}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Pass){
		"lost when accepted": func(p *Pass) { p.Acknowledged = 1 },
		"lost on the way":    func(p *Pass) { p.Received = 3 },
		"sent twice":         func(p *Pass) { p.Duplicates = 1 },
	} {
		p := good
		if change(&p); p.check() == nil {
			t.Errorf("%s: %+v is taken for right", name, p)
		}
	}
}

func TestEnoughFiles(t *testing.T) {
	t.Parallel()
	for _, one := range []struct {
		endpoints int
		limit     uint64
		enough    bool
	}{{10_000, 0, true}, {10_000, 11_000, true}, {10_000, 10_999, false}, {1, 1001, true}} {
		if err := enoughFiles(one.endpoints, one.limit); (err == nil) != one.enough {
			t.Errorf("%+v: %v", one, err)
		}
	}
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	var hundred []float64
	for i := range 100 {
		hundred = append(hundred, float64(100-i))
	}
	for p, want := range map[int]float64{1: 1, 50: 50, 99: 99, 100: 100} {
		if got := percentile(hundred, p); got != want {
			t.Errorf("p%d of 1 to 100 is %v", p, got)
		}
	}
	if got := percentile([]float64{3, 1, 2}, 50); got != 2 {
		t.Errorf("the median of three is %v", got)
	}
	if got := percentile(nil, 99); got != 0 {
		t.Errorf("p99 of nothing is %v", got)
	}
}

func FuzzSequence(f *testing.F) {
	for _, seed := range []string{`{"sequence":17}`, `"sequence":`, `"sequence":9999999999`, `"sequence":-1`, `"sequence": 1`, ``, `"sequence":1"sequence":2`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		n := sequence(body)
		if n < -1 || n > 999_999_999 {
			t.Fatalf("%d", n)
		}
		if n >= 0 && !bytes.Contains(body, []byte(sequenceKey)) {
			t.Fatal("a number from nowhere")
		}
		if again := sequence(fmt.Appendf(nil, `%s%d,`, sequenceKey, max(0, n))); again != max(0, n) {
			t.Fatalf("%d became %d", n, again)
		}
	})
}
