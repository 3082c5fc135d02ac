package journal

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// reach leaves a server that does not lead anywhere: one that is cut off from its cluster keeps its connections, and no stream's
// leader answers through it. Then another server is tried.
type reach struct {
	stop context.CancelFunc
	done sync.WaitGroup
}

const (
	// reachLook is how often a connection is asked for an answer of a stream's leader, of another stream each time: not all
	// leaders are on one server, and one that is being elected is no reason to go elsewhere.
	reachLook = time.Second
	// reachAfter is for how long none may come.
	reachAfter = 5 * time.Second
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
	answered := time.Now()
	for turn := 0; ; turn++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		logs := j.logs()
		asking, cancel := context.WithTimeout(ctx, reachLook)
		_, err := nc.RequestWithContext(asking, "$JS.API.STREAM.INFO."+logs[turn%len(logs)].name, nil)
		cancel()
		switch {
		case err == nil, !nc.IsConnected():
			answered = time.Now()
		case time.Since(answered) > reachAfter:
			j.log.Warn("no stream answers through this NATS server: another is tried", "conn", nc.Opts.Name, "server", nc.ConnectedUrlRedacted())
			if err := nc.ForceReconnect(); err != nil {
				j.log.Warn("NATS connection", "conn", nc.Opts.Name, "error", err)
			}
			answered = time.Now()
		}
	}
}
