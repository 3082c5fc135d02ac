//go:build unix

package egress

import (
	"io"
	"net"
	"syscall"
)

// A glance reads what has arrived on a connection, without waiting for it. It is for one caller at a time.
type glance struct {
	raw  syscall.RawConn
	look func(fd uintptr)
	into []byte
	n    int
	err  error
}

func newGlance(c net.Conn) *glance {
	g := &glance{}
	if has, ok := c.(syscall.Conn); ok {
		g.raw, _ = has.SyscallConn()
	}
	// Go's sockets do not block.
	g.look = func(fd uintptr) { g.n, g.err = syscall.Read(int(fd), g.into) }
	return g
}

func (g *glance) read(p []byte) (int, error) {
	if g.raw == nil {
		return 0, errNothing
	}
	g.into = p
	err := g.raw.Control(g.look)
	g.into = nil
	switch {
	case err != nil:
		return 0, err
	case g.err == syscall.EAGAIN || g.err == syscall.EINTR:
		return 0, errNothing
	case g.err != nil:
		return 0, g.err
	case g.n == 0:
		return 0, io.EOF
	}
	return g.n, nil
}
