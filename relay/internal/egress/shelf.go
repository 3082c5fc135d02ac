package egress

import (
	"sync"
	"time"
)

// A shelf keeps the lines that are idle, so many of each place and so many in all: then the one that is idle for longest goes.
// It looks at what lies there every few seconds, as long as anything does, and closes what has lain too long or was ended by
// its server.
type shelf struct {
	perPlace, most int
	longest        time.Duration

	mu      sync.Mutex // guards all below
	places  map[place][]*line
	order   line // the ring of all: next is idle for longest
	count   int
	looking bool // a look is due or under way
}

// lookEvery is how often the shelf is looked through, at most.
const lookEvery = 5 * time.Second

// take returns the line of the place that was used last, or nil.
func (s *shelf) take(at place) *line {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := s.places[at]
	for i := len(lines) - 1; i >= 0; i-- {
		if l := lines[i]; !l.looked {
			s.remove(l, i)
			return l
		}
	}
	return nil
}

// put lays down a line on which a response has been read to its end, or closes it where there is no room.
func (s *shelf) put(l *line) {
	if over := s.add(l); over != nil {
		_ = over.Close()
	}
}

// add returns the line that has to go for it.
func (s *shelf) add(l *line) *line {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := s.places[l.place]
	if l.place.kept.retired || len(lines) >= s.perPlace {
		return l
	}
	if s.places == nil {
		s.places = map[place][]*line{}
		s.order.next, s.order.previous = &s.order, &s.order
	}
	s.places[l.place] = append(lines, l)
	l.since, l.idle = time.Now(), true
	l.previous, l.next = s.order.previous, &s.order
	l.previous.next, s.order.previous = l, l
	s.count++
	if !s.looking {
		s.looking = true
		time.AfterFunc(min(lookEvery, s.longest), s.look)
	}
	if s.count > s.most {
		over := s.order.next
		s.drop(over)
		return over
	}
	return nil
}

// remove takes out the line that stands at i of its place. The caller holds the mutex.
func (s *shelf) remove(l *line, i int) {
	lines := s.places[l.place]
	copy(lines[i:], lines[i+1:])
	lines[len(lines)-1] = nil
	s.places[l.place] = lines[:len(lines)-1]
	l.previous.next, l.next.previous = l.next, l.previous
	l.previous, l.next, l.idle = nil, nil, false
	s.count--
}

func (s *shelf) drop(l *line) {
	for i, other := range s.places[l.place] {
		if other == l {
			s.remove(l, i)
			return
		}
	}
}

// close closes what lies there of one kept; with retire, nothing more of it is laid down.
func (s *shelf) close(k *kept, retire bool) {
	s.mu.Lock()
	k.retired = k.retired || retire
	var gone []*line
	for at, lines := range s.places {
		if at.kept == k {
			gone = append(gone, lines...)
		}
	}
	for _, l := range gone {
		s.drop(l)
	}
	s.mu.Unlock()
	for _, l := range gone {
		_ = l.Close()
	}
}

// look goes through all that lies there, one line at a time, so that nobody waits for more than that.
func (s *shelf) look() {
	s.mu.Lock()
	all := make([]*line, 0, s.count)
	for l := s.order.next; l != &s.order; l = l.next {
		all = append(all, l)
	}
	s.mu.Unlock()
	for _, l := range all {
		s.lookAt(l)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, lines := range s.places {
		if len(lines) == 0 {
			delete(s.places, at)
		}
	}
	if s.looking = s.count > 0; s.looking {
		time.AfterFunc(min(lookEvery, s.longest), s.look)
	}
}

func (s *shelf) lookAt(l *line) {
	s.mu.Lock()
	if !l.idle {
		s.mu.Unlock()
		return
	}
	l.looked = true
	expired := time.Since(l.since) >= s.longest
	s.mu.Unlock()
	ended := expired || l.dead()
	s.mu.Lock()
	l.looked = false
	ended = ended && l.idle // otherwise it was closed meanwhile
	if ended {
		s.drop(l)
	}
	s.mu.Unlock()
	if ended {
		_ = l.Close()
	}
}
