package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// order is a line that a sink reads from who started it.
type order struct {
	Do string `json:"do"` // listen, begin, behave, await, times, forget

	// listen: with a certificate it speaks TLS; with roots of clients it demands and verifies theirs. PEM. Everywhere: on every
	// loopback address, at one port.
	Certificate string `json:"certificate,omitempty"`
	Key         string `json:"key,omitempty"`
	ClientRoots string `json:"clientRoots,omitempty"`
	Everywhere  bool   `json:"everywhere,omitempty"`

	// Run names whose endpoints are meant, in all that follows.
	Run int `json:"run,omitempty"`

	// begin: from now on requests to /<run>/<endpoint> are counted, with a body that holds "sequence":<number>, Events numbers
	// from First on. All others are strays. Spread: the nth event is for endpoint n modulo Endpoints alone, otherwise each
	// event is for each of them.
	First     int  `json:"first,omitempty"`
	Events    int  `json:"events,omitempty"`
	Endpoints int  `json:"endpoints,omitempty"`
	Spread    bool `json:"spread,omitempty"`
	// Want is how many receipts there are to be, of different deliveries.
	Want int64 `json:"want,omitempty"`

	// behave: from now on the endpoints named act in this manner, over all that begins; those that hang or trickle in another one
	// are cut off.
	Manner manner `json:"manner,omitempty"`
	Which  []int  `json:"which,omitempty"`

	// await: for so long at most, until all are there.
	For time.Duration `json:"for,omitempty"`
}

// answer is the line that a sink writes for each order.
type answer struct {
	Error   string `json:"error,omitempty"`
	Address string `json:"address,omitempty"`
	tally
	// Times are the first receipts, of endpoint 0 event by event, then of endpoint 1, or event by event where they are
	// spread, in nanoseconds of Unix time; 0: none.
	Times []int64 `json:"times,omitempty"`
}

// tally is what a sink has counted.
type tally struct {
	Received   int64 `json:"received"`   // different deliveries of what began last
	Duplicates int64 `json:"duplicates"` // more receipts of them
	Strays     int64 `json:"strays"`     // requests that belong to no delivery of it
	Untracked  int64 `json:"untracked"`  // requests of the bare client, since the sink began
	Ill        int64 `json:"ill"`        // requests to endpoints that were not well at the time
	Completed  int64 `json:"completed"`  // when the last delivery came, nanoseconds of Unix time; 0: not yet
}

// Bounds of a sink.
const (
	maxTracked  = 1 << 24 // receipts of a run
	maxManners  = 1 << 16 // endpoints of a run
	maxSinkBody = 1 << 20
	sequenceKey = `"sequence":`
)

// run is a set of endpoints and what is counted of them at a time.
type run struct {
	manners [maxManners]atomic.Pointer[conduct] // by endpoint; nil: well
	now     atomic.Pointer[count]
}

// count is what came of one load.
type count struct {
	first, events, endpoints     int
	spread                       bool
	want                         int64
	at                           []atomic.Int64 // first receipt, in the order of answer.Times
	received, duplicates, strays atomic.Int64
	ill, completed               atomic.Int64
	complete                     chan struct{} // closed when want are there
}

// sink is a receiver in a process of its own, so that what it uses is not counted as the relay's. It trusts whoever
// started it, and nothing that comes in by its listeners: those are on loopback, or let in nothing else.
type sink struct {
	runs      sync.Map // int -> *run
	untracked atomic.Int64
	buffers   sync.Pool
	servers   []*http.Server
}

// Sink receives until in ends: it reads orders from it, line by line, and answers each on out. It is the other half
// of Run, which starts it as a process.
func Sink(ctx context.Context, in io.Reader, out io.Writer) error {
	s := &sink{buffers: sync.Pool{New: func() any { return new(bytes.Buffer) }}}
	defer func() {
		for _, server := range s.servers {
			server.Close()
		}
	}()
	orders, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var o order
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("bench: order to the sink: %w", err)
		}
		a, err := s.do(ctx, o)
		if err != nil {
			a.Error = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			return fmt.Errorf("bench: answer of the sink: %w", err)
		}
	}
}

func (s *sink) do(ctx context.Context, o order) (answer, error) {
	switch o.Do {
	case "listen":
		address, err := s.listen(o)
		return answer{Address: address}, err
	case "begin":
		return answer{}, s.begin(o)
	case "behave":
		return answer{}, s.behave(o)
	case "forget":
		s.runs.Delete(o.Run)
		return answer{}, nil
	}
	c := s.counted(o.Run)
	if c == nil {
		return answer{tally: tally{Untracked: s.untracked.Load()}}, nil
	}
	switch o.Do {
	case "await":
		late := time.NewTimer(o.For)
		defer late.Stop()
		select {
		case <-c.complete:
		case <-late.C:
		case <-ctx.Done():
		}
		return answer{tally: s.tally(c)}, nil
	case "times":
		a := answer{tally: s.tally(c), Times: make([]int64, len(c.at))}
		for i := range c.at {
			a.Times[i] = c.at[i].Load()
		}
		return a, nil
	}
	return answer{}, fmt.Errorf("the sink knows no order %q", o.Do)
}

// run is the one of that number, or nil.
func (s *sink) run(id int) *run {
	r, _ := s.runs.Load(id)
	known, _ := r.(*run)
	return known
}

func (s *sink) counted(id int) *count {
	if r := s.run(id); r != nil {
		return r.now.Load()
	}
	return nil
}

func (s *sink) begin(o order) error {
	each := o.Endpoints
	if o.Spread {
		each = 1
	}
	if o.Run < 1 || o.Events < 1 || o.Endpoints < 1 || o.Events > maxTracked/each {
		return fmt.Errorf("a run of %d events to %d endpoints is beyond what is tracked", o.Events, o.Endpoints)
	}
	r, _ := s.runs.LoadOrStore(o.Run, &run{})
	r.(*run).now.Store(&count{
		first: o.First, events: o.Events, endpoints: o.Endpoints, spread: o.Spread, want: o.Want,
		at: make([]atomic.Int64, o.Events*each), complete: make(chan struct{}),
	})
	return nil
}

func (s *sink) behave(o order) error {
	if !o.Manner.known() || o.Run < 1 {
		return fmt.Errorf("the sink knows no manner %q", o.Manner)
	}
	r, _ := s.runs.LoadOrStore(o.Run, &run{})
	for _, endpoint := range o.Which {
		if endpoint < 0 || endpoint >= maxManners {
			return fmt.Errorf("there is no endpoint %d", endpoint)
		}
		if before := r.(*run).manners[endpoint].Swap(o.Manner.conduct()); before != nil {
			close(before.over)
		}
	}
	return nil
}

func (s *sink) tally(c *count) tally {
	return tally{
		Received: c.received.Load(), Duplicates: c.duplicates.Load(), Strays: c.strays.Load(),
		Untracked: s.untracked.Load(), Ill: c.ill.Load(), Completed: c.completed.Load(),
	}
}

func (s *sink) listen(o order) (string, error) {
	host := "127.0.0.1"
	if o.Everywhere {
		host = "0.0.0.0"
	}
	l, err := net.Listen("tcp4", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	address := fmt.Sprintf("127.0.0.1:%d", l.Addr().(*net.TCPAddr).Port)
	l = loopbackOnly{l}
	server := &http.Server{Handler: s, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	s.servers = append(s.servers, server)
	if o.Certificate == "" {
		go server.Serve(l)
		return "http://" + address, nil
	}
	pair, err := tls.X509KeyPair([]byte(o.Certificate), []byte(o.Key))
	if err != nil {
		l.Close()
		return "", err
	}
	conf := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}
	if o.ClientRoots != "" {
		conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		if !conf.ClientCAs.AppendCertsFromPEM([]byte(o.ClientRoots)) {
			l.Close()
			return "", errors.New("no root of clients")
		}
	}
	go server.Serve(tls.NewListener(l, conf))
	return "https://" + address, nil
}

// loopbackOnly closes what comes from elsewhere unread.
type loopbackOnly struct{ net.Listener }

// Accept returns the next connection that was made to a loopback address.
func (l loopbackOnly) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if to, ok := conn.LocalAddr().(*net.TCPAddr); ok && to.IP.IsLoopback() {
			return conn, nil
		}
		conn.Close()
	}
}

// ServeHTTP takes a request to /bare, or to /<run>/<endpoint>.
func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := s.buffers.Get().(*bytes.Buffer)
	body.Reset()
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, maxSinkBody))
	number := sequence(body.Bytes()) // also where it is not needed: the bare client's requests cost the sink the same
	s.buffers.Put(body)
	if err != nil {
		return
	}
	if r.URL.Path == "/bare" {
		s.untracked.Add(1)
		return
	}
	id, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	run, err1 := strconv.Atoi(id)
	to, err2 := strconv.Atoi(rest)
	known := s.run(run)
	if known == nil {
		return
	}
	now := known.now.Load()
	if now == nil {
		return
	}
	if err1 != nil || err2 != nil || to < 0 || to >= now.endpoints {
		now.strays.Add(1)
		return
	}
	if to < maxManners {
		if acts := known.manners[to].Load(); acts != nil {
			now.ill.Add(1) // before: it may take as long as it likes
			if !acts.take(w, r) {
				return
			}
		}
	}
	now.took(to, number-now.first)
}

// took counts a receipt.
func (c *count) took(endpoint, event int) {
	if event < 0 || event >= c.events || c.spread && event%c.endpoints != endpoint {
		c.strays.Add(1)
		return
	}
	delivery := event
	if !c.spread {
		delivery += endpoint * c.events
	}
	at := time.Now().UnixNano()
	if !c.at[delivery].CompareAndSwap(0, at) {
		c.duplicates.Add(1)
		return
	}
	if c.received.Add(1) == c.want {
		c.completed.Store(at)
		close(c.complete)
	}
}

// sequence is the number behind the first "sequence": of a body, -1 where there is none.
func sequence(body []byte) int {
	at := bytes.Index(body, []byte(sequenceKey))
	if at < 0 {
		return -1
	}
	n, digits := 0, 0
	for _, c := range body[at+len(sequenceKey):] {
		if c < '0' || c > '9' || digits == 9 {
			break
		}
		n, digits = n*10+int(c-'0'), digits+1
	}
	if digits == 0 {
		return -1
	}
	return n
}
