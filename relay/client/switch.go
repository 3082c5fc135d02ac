package client

import (
	"context"
	"sync"

	"google.golang.org/grpc"
)

// switched is a connection that is replaced while calls go on: what was begun on the old one ends there, and then it is closed. A TLS
// connection has the certificate that it was made with for as long as it lasts.
type switched struct {
	dial func() (*grpc.ClientConn, error)

	mu    sync.Mutex // guards all below
	now   *used
	moved chan struct{} // closed when now is another one
	ended bool
}

// used is a connection with the calls that are under way on it.
type used struct {
	conn    *grpc.ClientConn
	calls   int
	retired bool // closed once nothing is under way
}

func newSwitched(dial func() (*grpc.ClientConn, error)) (*switched, error) {
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	return &switched{dial: dial, now: &used{conn: conn}, moved: make(chan struct{})}, nil
}

// take is the connection for one more call; give gives it back.
func (s *switched) take() *used {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.calls++
	return s.now
}

func (s *switched) give(u *used) {
	s.mu.Lock()
	u.calls--
	over := u.retired && u.calls == 0
	s.mu.Unlock()
	if over {
		u.conn.Close()
	}
}

// Invoke is a unary call.
func (s *switched) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	u := s.take()
	defer s.give(u)
	return u.conn.Invoke(ctx, method, args, reply, opts...)
}

// NewStream is a stream; its connection is given back when it ends.
func (s *switched) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	u := s.take()
	var once sync.Once
	give := func() { once.Do(func() { s.give(u) }) }
	stream, err := u.conn.NewStream(ctx, desc, method, append(opts, grpc.OnFinish(func(error) { give() }))...)
	if err != nil {
		give()
	}
	return stream, err
}

// hold is closed when the connection is another one than now.
func (s *switched) hold() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.moved
}

// replace makes the connection anew for what begins from now on.
func (s *switched) replace() error {
	conn, err := s.dial()
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return conn.Close()
	}
	old := s.now
	s.now = &used{conn: conn}
	old.retired = true
	idle := old.calls == 0
	close(s.moved)
	s.moved = make(chan struct{})
	s.mu.Unlock()
	if idle {
		old.conn.Close()
	}
	return nil
}

// Close ends it, with the calls under way on the newest connection.
func (s *switched) Close() error {
	s.mu.Lock()
	s.ended = true
	now := s.now
	s.mu.Unlock()
	return now.conn.Close()
}
