package ledger

import (
	"context"
	"errors"
	"iter"
	"sync"

	"github.com/sealpost/sealpost/relay"
)

// ErrLagged ends a watch whose reader did not keep up. It begins again with a list of what it missed.
var ErrLagged = errors.New("the watcher did not keep up")

// watchAhead is how many changes a watcher may be behind.
const watchAhead = 4096

// Hub hands the changes of deliveries to those who watch. It is safe for concurrent use; the zero value is ready.
type Hub struct {
	mu       sync.Mutex
	watchers map[*watcher]struct{}
}

type watcher struct {
	changes chan relay.Outcome
	lagged  chan struct{}
}

// Watch yields the outcomes that the view has taken since the call, until ctx ends (then with its error) or the reader lags behind
// (with ErrLagged). Records of unmatched events are left out.
func (h *Hub) Watch(ctx context.Context) iter.Seq2[relay.Outcome, error] {
	w := &watcher{changes: make(chan relay.Outcome, watchAhead), lagged: make(chan struct{})}
	h.mu.Lock()
	if h.watchers == nil {
		h.watchers = map[*watcher]struct{}{}
	}
	h.watchers[w] = struct{}{}
	h.mu.Unlock()
	return func(yield func(relay.Outcome, error) bool) {
		defer h.drop(w)
		for {
			select {
			case o := <-w.changes:
				if !yield(o, nil) {
					return
				}
			case <-ctx.Done():
				yield(relay.Outcome{}, ctx.Err())
				return
			case <-w.lagged:
				yield(relay.Outcome{}, ErrLagged)
				return
			}
		}
	}
}

func (h *Hub) drop(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.watchers, w)
}

// lose ends all watches: something may have been missed.
func (h *Hub) lose() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		close(w.lagged)
		delete(h.watchers, w)
	}
}

func (h *Hub) tell(group []relay.SequencedOutcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		for i := range group {
			if group[i].State == relay.Unmatched || group[i].State == relay.Owned || group[i].Retold != 0 {
				continue
			}
			select {
			case w.changes <- group[i].Outcome:
				continue
			default:
			}
			close(w.lagged)
			delete(h.watchers, w)
			break
		}
	}
}
