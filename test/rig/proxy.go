package rig

import (
	"context"
	"net"
	"sync"
	"testing"
)

// Proxy passes bytes between those who connect to Address and a server, until it is cut: then nothing passes and nothing is said, as where
// a cable was pulled, until it is healed.
type Proxy struct {
	Address string
	to      string
	ctx     context.Context

	mu   sync.Mutex
	open chan struct{} // closed while bytes pass
	is   bool          // so
}

// NewProxy listens on a port of its own until the test ends.
func NewProxy(tb testing.TB, to string) *Proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Proxy{Address: l.Addr().String(), to: to, ctx: ctx, open: make(chan struct{}), is: true}
	close(p.open)
	var done sync.WaitGroup
	tb.Cleanup(func() { cancel(); l.Close(); done.Wait() })
	done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			done.Go(func() { p.serve(conn) })
		}
	})
	return p
}

// Cut stops all bytes. Who connects meanwhile is let in, and hears nothing.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.is {
		p.open, p.is = make(chan struct{}), false
	}
}

// Heal lets the bytes pass again, those held back first.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.is {
		close(p.open)
		p.is = true
	}
}

// await returns when bytes may pass, or false when they never will.
func (p *Proxy) await() bool {
	p.mu.Lock()
	open := p.open
	p.mu.Unlock()
	select {
	case <-open:
		return p.ctx.Err() == nil
	case <-p.ctx.Done():
		return false
	}
}

func (p *Proxy) serve(from net.Conn) {
	defer from.Close()
	if !p.await() {
		return
	}
	to, err := (&net.Dialer{}).DialContext(p.ctx, "tcp", p.to)
	if err != nil {
		return
	}
	defer to.Close()
	defer context.AfterFunc(p.ctx, func() { from.Close(); to.Close() })()
	var both sync.WaitGroup
	both.Go(func() { p.pass(to, from) })
	both.Go(func() { p.pass(from, to) })
	both.Wait()
}

func (p *Proxy) pass(to, from net.Conn) {
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if !p.await() {
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				from.Close()
				return
			}
		}
		if err != nil {
			p.await() // an end is not heard of either
			return
		}
	}
}
