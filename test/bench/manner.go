package bench

import (
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// manner is what a partner does with requests.
type manner string

// The manners of partners.
const (
	well     manner = ""        // takes them
	hangs    manner = "hang"    // never answers
	trickles manner = "trickle" // answers a byte a second
	resets   manner = "reset"   // resets the connection
	paced    manner = "paced"   // takes ten a second, one after the other, however many are under way
)

func (m manner) known() bool {
	switch m {
	case well, hangs, trickles, resets, paced:
		return true
	}
	return false
}

// pace is how long a partner that takes ten a second needs for one.
const pace = 100 * time.Millisecond

// conduct is how one endpoint acts until it is over.
type conduct struct {
	manner manner
	over   chan struct{}
	turn   sync.Mutex // of what is paced
}

// conduct is nil for those who are well.
func (m manner) conduct() *conduct {
	if m == well {
		return nil
	}
	return &conduct{manner: m, over: make(chan struct{})}
}

// take acts on a request, and tells whether the partner has it now.
func (c *conduct) take(w http.ResponseWriter, r *http.Request) bool {
	switch c.manner {
	case hangs:
		select {
		case <-r.Context().Done():
		case <-c.over:
			cut(w)
		}
	case trickles:
		c.trickle(w, r)
	case resets:
		cut(w)
	case paced:
		c.turn.Lock()
		defer c.turn.Unlock()
		time.Sleep(pace)
		return r.Context().Err() == nil
	}
	return false
}

// trickle answers a byte a second, until nobody listens.
func (c *conduct) trickle(w http.ResponseWriter, r *http.Request) {
	every := time.NewTicker(time.Second)
	defer every.Stop()
	for {
		select {
		case <-every.C:
			if _, err := io.WriteString(w, "."); err != nil || r.Context().Err() != nil {
				return
			}
			http.NewResponseController(w).Flush()
		case <-r.Context().Done():
			return
		case <-c.over:
			cut(w)
			return
		}
	}
}

// cut resets the connection.
func cut(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}
