package journal

import (
	"cmp"
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var payload = make([]byte, 1000)

// path plays the writing goroutine: a group takes as long as its caller says.
type path struct {
	t    *rapid.T
	s    shares
	now  time.Time
	sent map[string]int // the next number of each share that enters
	came map[string]int // and that is taken
}

func newPath(t *rapid.T) *path {
	s := newShares(Options{MaxUncommittedBytes: 1 << 40, MaxUnread: 1 << 40, MaxUnreadBytes: 1 << 40})
	return &path{t: t, s: s, now: time.Unix(1e9, 0), sent: map[string]int{}, came: map[string]int{}}
}

func (p *path) enter(share string, n int) {
	for range n {
		one := &pending{entry: Entry{ID: fmt.Sprint(p.sent[share]), Share: share, Payload: payload}}
		p.sent[share]++
		if err := p.s.enter(one, 0, 0, p.now); err != nil {
			p.t.Fatal(err)
		}
		p.s.push(one)
	}
}

// group takes a group and answers it after that time; it tells how many of each share it held.
func (p *path) group(took time.Duration) (of map[string]int, wait time.Duration) {
	return p.groupOf(func(int) time.Duration { return took })
}

// groupOf is group where the time goes by the number of events.
func (p *path) groupOf(took func(events int) time.Duration) (of map[string]int, wait time.Duration) {
	items, whose, wait := p.s.group(p.now, false)
	began := p.now
	if len(items) > 0 {
		p.now = p.now.Add(took(len(items)))
	}
	of = map[string]int{}
	for _, one := range items {
		share := one.entry.Share
		if one.entry.ID != fmt.Sprint(p.came[share]) {
			p.t.Fatalf("%s of %s came, after %d others", one.entry.ID, share, p.came[share])
		}
		p.came[share]++
		of[share]++
		p.s.answered(one)
	}
	if len(items) > 0 {
		p.s.hold.over(whose, began, p.now)
	}
	return of, wait
}

// While one publishes gently, another's flood has the way to the disk an eighth of the time, however long its groups take, in groups that
// are small; and what is gentle goes at once, by itself.
func TestFloodLeavesTheWayFree(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := newPath(t)
		p.enter("gentle", 1)
		p.enter("flood", 300)
		p.group(time.Millisecond)
		began, gently, busy := p.now, p.now, time.Duration(0)
		for p.now.Sub(began) < time.Second {
			if missing := 300 - (p.sent["flood"] - p.came["flood"]); missing > 0 {
				p.enter("flood", missing)
			}
			if !p.now.Before(gently) {
				p.enter("gentle", 1)
				gently = p.now.Add(20 * time.Millisecond)
			}
			took := time.Duration(rapid.IntRange(100, 20_000).Draw(t, "took")) * time.Microsecond
			of, wait := p.group(took)
			switch {
			case of["gentle"] > 0 && of["flood"] > 0:
				t.Fatalf("a group of %v", of)
			case of["flood"] > floodMost:
				t.Fatalf("%d of the flood in a group", of["flood"])
			case of["flood"] > 0:
				busy += took
			case of["gentle"] == 0 && wait <= 0:
				t.Fatalf("nothing is taken, with %d queued, and there is nothing to wait for", p.s.held.Len())
			case of["gentle"] == 0:
				p.now = p.now.Add(min(wait, gently.Sub(p.now)))
			}
		}
		share := busy.Seconds() / p.now.Sub(began).Seconds()
		if most := 1. / (1 + holdFor); share > most*1.2 || p.came["flood"] == 0 { // the last may have begun at the end
			t.Fatalf("the flood had the way %.3f of the time", share)
		}
	})
}

// A flood's groups are as large as they can be without taking much longer than what they are beside, on a fast disk and on a slow one.
func TestFloodGroupsGoByTheirTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := newPath(t)
		sync := time.Duration(rapid.IntRange(500, 20_000).Draw(t, "sync")) * time.Microsecond
		each := time.Duration(rapid.IntRange(1, 200).Draw(t, "each")) * time.Microsecond
		took := func(n int) time.Duration { return sync + time.Duration(n)*each }
		size := 0
		for range 100 {
			p.enter("gentle", 1)
			p.groupOf(took)
			p.enter("flood", max(0, 2*floodMost-p.sent["flood"]+p.came["flood"]))
			of, wait := p.groupOf(took)
			for of["flood"] == 0 {
				p.now = p.now.Add(wait)
				of, wait = p.groupOf(took)
			}
			size = of["flood"]
		}
		most := min(floodMost, max(floodLeast, int(float64(sync+each)*floodLonger-float64(sync))/int(each)))
		if size < most/2 || size > most*5/4 {
			t.Fatalf("groups of %d where %d take %v times as long as one", size, most, floodLonger)
		}
	})
}

// Who floods alone, or beside others who do, is not held back, and has whole groups.
func TestFloodAloneIsNotHeld(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 3} {
		rapid.Check(t, func(t *rapid.T) {
			p := newPath(t)
			for range 3 {
				for i := range n {
					p.enter(fmt.Sprint("flood-", i), groupMax)
				}
				all := 0
				of, wait := p.group(time.Duration(rapid.IntRange(1, 50).Draw(t, "took")) * time.Millisecond)
				for _, count := range of {
					all += count
				}
				want := groupMax
				if n > 1 {
					want = crowdedMax
				}
				if all != want || wait != 0 {
					t.Fatalf("%d in a group of %d that flood, then %v", all, n, wait)
				}
			}
		})
	}
}

// What the relay itself publishes holds nobody back.
func TestOwnEventsHoldNobody(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := newPath(t)
		p.enter("flood", 2*groupMax)
		p.enter("", 1)
		if of, wait := p.group(time.Millisecond); of["flood"] != groupMax-1 || wait != 0 {
			t.Fatalf("a group of %v, then %v", of, wait)
		}
	})
}

// A flood ends in time what it began, though what is gentle never leaves the way free.
func TestFloodIsNotStarved(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := newPath(t)
		p.enter("flood", 1000)
		for i := range 600 {
			p.enter(fmt.Sprint("gentle-", i%7), 5)
			p.group(5 * time.Millisecond)
		}
		if p.came["flood"] != 1000 {
			t.Fatalf("%d came in 3 seconds", p.came["flood"])
		}
	})
}

// Whoever begins to flood, and ends, keeps the order of its events, and none is left.
func TestFloodKeepsOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := newPath(t)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			p.enter(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "share"), rapid.SampledFrom([]int{1, 5, 200}).Draw(t, "n"))
			for range rapid.IntRange(0, 4).Draw(t, "groups") {
				_, wait := p.group(time.Duration(rapid.IntRange(1, 20).Draw(t, "took")) * time.Millisecond)
				p.now = p.now.Add(wait + time.Duration(rapid.IntRange(0, 1500).Draw(t, "idle"))*time.Millisecond)
			}
		}
		for p.s.queue.Len()+p.s.held.Len() > 0 {
			_, wait := p.group(time.Millisecond)
			p.now = p.now.Add(wait)
		}
		for share, n := range p.sent {
			if p.came[share] != n {
				t.Fatalf("%d of %d came", p.came[share], n)
			}
		}
		if len(p.s.of) != 0 {
			t.Fatalf("%d shares are kept of whom nothing waits", len(p.s.of))
		}
	})
}

// A flood beside a gentle share is answered whole by a real journal, also when that closes meanwhile.
func TestFloodIsAnswered(t *testing.T) {
	t.Parallel()
	j, err := Open(t.Context(), Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	const events = 2000
	var kept sync.WaitGroup
	var mu sync.Mutex
	var failed error
	kept.Add(events + 20)
	publish := func(share string, i int) {
		e := entry(fmt.Sprint(share, ".", i), "one")
		e.Share = share
		j.Events(0).AcceptAsync(e, func(_ Receipt, err error) {
			mu.Lock()
			failed = cmp.Or(failed, err)
			mu.Unlock()
			kept.Done()
		})
	}
	for i := range events {
		if publish("flood", i); i%100 == 0 {
			publish("gentle", i)
		}
	}
	shut(t, j)
	kept.Wait()
	if failed != nil {
		t.Fatal(failed)
	}
}
