package journal

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// reach leaves a server that is out of touch with its cluster. One that is cut off keeps its connections, and answers: of the streams that
// it leads as if nothing had happened, for 10 to 20 s, until it notices that nobody follows (lostQuorumInterval and lostQuorumCheck in the
// server's raft.go), and then that there is no leader. Nothing that is written through it is stored meanwhile, and the others have elected
// a leader after 4 to 9 s. So an answer counts for what it says: when the leader that gives it last heard the majority that a record needs.
type reach struct {
	stop context.CancelFunc
	done sync.WaitGroup
}

const (
	// reachLook is how often a connection is asked for an answer of a stream's leader, of another stream each time: not all
	// leaders are on one server, and one that is being elected is no reason to go elsewhere.
	reachLook = time.Second
	// reachAfter is for how long no leader in touch may be heard of through a server.
	reachAfter = 5 * time.Second
	// touchWithin is for how long a leader's word is good that has heard no majority. A follower waits 4 s (minElectionTimeout in the
	// server's raft.go) for a leader that beats once a second: before that there is no other, so what this one says of its stream is so.
	touchWithin = 3 * time.Second
)

func (r *reach) begin(j *Journal) {
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	for _, nc := range []*nats.Conn{j.nc, j.pub, j.out} {
		r.done.Go(func() { j.keepInReach(ctx, nc) })
	}
}

func (r *reach) end() {
	if r.stop != nil {
		r.stop()
		r.done.Wait()
	}
}

func (j *Journal) keepInReach(ctx context.Context, nc *nats.Conn) {
	tick := time.NewTicker(reachLook)
	defer tick.Stop()
	heard := time.Now()
	for turn := 0; ; turn++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		logs := j.logs()
		asked := time.Now()
		ago, err := leaderHeard(ctx, nc, logs[turn%len(logs)].name)
		if err == nil && asked.Add(-ago).After(heard) {
			heard = asked.Add(-ago)
		}
		switch {
		case !nc.IsConnected():
			heard = time.Now()
		case time.Since(heard) > reachAfter:
			j.log.Warn("this NATS server is out of touch with its cluster: another is tried", "conn", nc.Opts.Name, "server", nc.ConnectedUrlRedacted(), "error", err)
			if err := nc.ForceReconnect(); err != nil {
				j.log.Warn("NATS connection", "conn", nc.Opts.Name, "error", err)
			}
			heard = time.Now()
		}
	}
}

// leaderHeard asks through a connection how long ago a stream's leader last heard its majority.
func leaderHeard(ctx context.Context, nc *nats.Conn, stream string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, reachLook)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.INFO."+stream, nil)
	if err != nil {
		return 0, unavailable(err)
	}
	return parseHeard(m.Data)
}

func parseHeard(answer []byte) (time.Duration, error) {
	var r struct {
		Error   json.RawMessage        `json:"error"`
		Cluster *jetstream.ClusterInfo `json:"cluster"`
	}
	if err := json.Unmarshal(answer, &r); err != nil {
		return 0, fmt.Errorf("%w: state of a stream: %w", ErrUnavailable, err)
	}
	if len(r.Error) > 0 {
		return 0, refusal(answer)
	}
	return majorityHeard(r.Cluster)
}

// majorityHeard is how long ago the leader last heard as many others as make a majority with it.
func majorityHeard(c *jetstream.ClusterInfo) (time.Duration, error) {
	if c == nil {
		return 0, nil // one server
	}
	if c.Leader == "" {
		return 0, fmt.Errorf("%w: a stream has no leader", ErrUnavailable)
	}
	var ago []time.Duration
	for _, r := range c.Replicas {
		if r.Active > 0 || r.Current { // else it was never heard
			ago = append(ago, r.Active)
		}
	}
	slices.Sort(ago)
	need := (len(c.Replicas) + 1) / 2 // beside the leader, of so many and itself
	switch {
	case need == 0:
		return 0, nil
	case len(ago) < need:
		return 0, fmt.Errorf("%w: %w: the stream's leader has heard no majority", ErrUnavailable, ErrOutOfTouch)
	}
	return ago[need-1], nil
}

// inTouch refuses the word of a leader that may have been replaced.
func inTouch(c *jetstream.ClusterInfo) error {
	ago, err := majorityHeard(c)
	if err == nil && ago > touchWithin {
		err = fmt.Errorf("%w: %w: the stream's leader has heard no majority for %v", ErrUnavailable, ErrOutOfTouch, ago.Round(time.Millisecond))
	}
	return err
}
