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
	Do string `json:"do"` // listen, begin, await, times

	// listen: with a certificate it speaks TLS; with roots of clients it demands and verifies theirs. PEM.
	Certificate string `json:"certificate,omitempty"`
	Key         string `json:"key,omitempty"`
	ClientRoots string `json:"clientRoots,omitempty"`

	// begin: from now on requests to /<run>/<endpoint> are counted, with a body that holds "sequence":<number>, Events numbers
	// from First on. All others are strays.
	Run       int `json:"run,omitempty"`
	First     int `json:"first,omitempty"`
	Events    int `json:"events,omitempty"`
	Endpoints int `json:"endpoints,omitempty"`
	// Want is how many receipts there are to be, of different deliveries.
	Want int64 `json:"want,omitempty"`

	// await: for so long at most, until all are there.
	For time.Duration `json:"for,omitempty"`
}

// answer is the line that a sink writes for each order.
type answer struct {
	Error   string `json:"error,omitempty"`
	Address string `json:"address,omitempty"`
	tally
	// Times are the first receipts, of endpoint 0 event by event, then of endpoint 1, in nanoseconds of Unix time; 0: none.
	Times []int64 `json:"times,omitempty"`
}

// tally is what a sink has counted.
type tally struct {
	Received   int64 `json:"received"`   // different deliveries of the run
	Duplicates int64 `json:"duplicates"` // more receipts of them
	Strays     int64 `json:"strays"`     // requests that belong to no delivery of the run
	Untracked  int64 `json:"untracked"`  // requests of the bare client, since the sink began
	Ill        int64 `json:"ill"`        // requests that were not answered well, on purpose
	Completed  int64 `json:"completed"`  // when the last delivery of the run came, nanoseconds of Unix time; 0: not yet
}

// Bounds of a sink.
const (
	maxTracked  = 1 << 24 // receipts of a run
	maxSinkBody = 1 << 20
	sequenceKey = `"sequence":`
)

// run is what is counted at a time.
type run struct {
	id, first, events, endpoints int
	want                         int64
	at                           []atomic.Int64 // first receipt of delivery endpoint*events+event
	received, duplicates, strays atomic.Int64
	ill, completed               atomic.Int64
	complete                     chan struct{} // closed when want are there
}

// sink is a receiver in a process of its own, so that what it uses is not counted as the relay's. It trusts whoever
// started it, and nothing that comes in by its listeners: those are on loopback.
type sink struct {
	now       atomic.Pointer[run]
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
		if o.Run < 1 || o.Events < 1 || o.Endpoints < 1 || o.Events > maxTracked/o.Endpoints {
			return answer{}, fmt.Errorf("a run of %d events to %d endpoints is beyond what is tracked", o.Events, o.Endpoints)
		}
		s.now.Store(&run{
			id: o.Run, first: o.First, events: o.Events, endpoints: o.Endpoints, want: o.Want,
			at: make([]atomic.Int64, o.Events*o.Endpoints), complete: make(chan struct{}),
		})
		return answer{}, nil
	}
	r := s.now.Load()
	if r == nil {
		return answer{tally: tally{Untracked: s.untracked.Load()}}, nil
	}
	switch o.Do {
	case "await":
		late := time.NewTimer(o.For)
		defer late.Stop()
		select {
		case <-r.complete:
		case <-late.C:
		case <-ctx.Done():
		}
		return answer{tally: s.tally(r)}, nil
	case "times":
		a := answer{tally: s.tally(r), Times: make([]int64, len(r.at))}
		for i := range r.at {
			a.Times[i] = r.at[i].Load()
		}
		return a, nil
	}
	return answer{}, fmt.Errorf("the sink knows no order %q", o.Do)
}

func (s *sink) tally(r *run) tally {
	return tally{
		Received: r.received.Load(), Duplicates: r.duplicates.Load(), Strays: r.strays.Load(),
		Untracked: s.untracked.Load(), Ill: r.ill.Load(), Completed: r.completed.Load(),
	}
}

func (s *sink) listen(o order) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: s, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	s.servers = append(s.servers, server)
	if o.Certificate == "" {
		go server.Serve(l)
		return "http://" + l.Addr().String(), nil
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
	return "https://" + l.Addr().String(), nil
}

// ServeHTTP takes a request to /bare, or to /<run>/<endpoint> with what the endpoint does behind it, where it is not well.
func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := s.buffers.Get().(*bytes.Buffer)
	defer s.buffers.Put(body)
	body.Reset()
	if _, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, maxSinkBody)); err != nil {
		return
	}
	number := sequence(body.Bytes()) // also where it is not needed: the bare client's requests cost the sink the same
	if r.URL.Path == "/bare" {
		s.untracked.Add(1)
		return
	}
	now := s.now.Load()
	run, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	endpoint, behaviour, _ := strings.Cut(rest, "/")
	if now == nil {
		return
	}
	if behaviour != "" {
		if misbehaves := misbehaviour(behaviour); misbehaves != nil {
			now.ill.Add(1)
			misbehaves(w, r)
		}
		return
	}
	id, err1 := strconv.Atoi(run)
	to, err2 := strconv.Atoi(endpoint)
	event := number - now.first
	if err1 != nil || err2 != nil || id != now.id || to < 0 || to >= now.endpoints || number < 0 || event < 0 || event >= now.events {
		now.strays.Add(1)
		return
	}
	now.took(to*now.events + event)
}

// took counts a receipt.
func (r *run) took(delivery int) {
	at := time.Now().UnixNano()
	if !r.at[delivery].CompareAndSwap(0, at) {
		r.duplicates.Add(1)
		return
	}
	if r.received.Add(1) == r.want {
		r.completed.Store(at)
		close(r.complete)
	}
}

// misbehaviour is what partners do who are not well; nil for those who are.
func misbehaviour(name string) http.HandlerFunc {
	switch name {
	case "hang":
		return func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	case "trickle":
		return trickle
	case "reset":
		return reset
	}
	return nil
}

// trickle answers a byte a second, until nobody listens.
func trickle(w http.ResponseWriter, r *http.Request) {
	for range time.Tick(time.Second) {
		if _, err := io.WriteString(w, "."); err != nil || r.Context().Err() != nil {
			return
		}
		http.NewResponseController(w).Flush()
	}
}

func reset(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
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
