package egress

import (
	"net"
	"time"
)

// A line is a connection for HTTP/1.1, with one request on it at a time: whoever took it has it alone. Between requests it
// has no buffer and no goroutine.
type line struct {
	net.Conn       // what is spoken on: conn, or TLS on it
	conn     *conn // the TCP connection
	place    place
	served   bool   // a request before
	cut      func() // ends what waits for the connection, now and later; for anyone, at any time
	glance   *glance

	// Guarded by the shelf's mutex.
	idle           bool
	looked         bool // by the shelf, just now: not to be had
	since          time.Time
	previous, next *line
}

// place is where a line leads to: those of one place serve for each other.
type place struct {
	kept    *kept
	secure  bool
	address string
}

func newLine(c net.Conn, at place) *line {
	own := connOf(c)
	l := &line{Conn: c, conn: own, place: at, glance: newGlance(own.Conn)}
	l.cut = func() { _ = own.SetDeadline(time.Unix(1, 0)) }
	return l
}

// dead is whether the server has ended the connection, or said something on it that it was not asked for, as far as can be
// known without waiting. To read through TLS finds also what TLS holds already, and takes in what is meant for it alone.
func (l *line) dead() bool {
	var one [1]byte
	l.conn.glance = l.glance
	_, err := l.Read(one[:])
	l.conn.glance = nil
	return err != error(errNothing)
}

// abort closes the connection without TLS's goodbye, which could wait for a server that does not read.
func (l *line) abort() { _ = l.conn.Close() }

// nothing is the error of a glance that found nothing: one of those after which crypto/tls can be read on.
type nothing struct{}

var errNothing nothing

func (nothing) Error() string   { return "egress: nothing to read yet" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }
