package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A direct get is answered by any replica: a cluster hands each to one of them by chance, also to one that was cut off, until its routes
// are given up (90 s by default: two pings of routeMaxPingInterval, in the server's client.go). Those are never answered. So after the
// first of them the leader is asked for a while: a question to it reaches all servers, and it alone answers.
const (
	// directWithin is how long the answer to a direct get is waited for in a cluster.
	directWithin = 500 * time.Millisecond
	// leaderFor is for how long the leader is asked then.
	leaderFor = 10 * time.Second
)

// shun has leaders asked for a while.
func (j *Journal) shun() { j.shunned.Store(time.Now().Add(leaderFor).UnixNano()) }

func (j *Journal) shuns() bool { return time.Now().UnixNano() < j.shunned.Load() }

// getAny asks for one record, of any replica where one answers.
func (l *Log) getAny(ctx context.Context, seq uint64) (*nats.Msg, error) {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	if l.disk != nil {
		m, err := l.j.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+l.name, getRequest(seq))
		return m, unavailable(err)
	}
	if !l.j.shuns() {
		m, lost, err := l.brief(ctx, func(ctx context.Context) (*nats.Msg, error) {
			return l.j.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+l.name, getRequest(seq))
		})
		if !lost {
			return m, unavailable(err)
		}
	}
	return l.leaderGet(ctx, messageGet{Seq: seq})
}

// brief waits for the answer to a direct get no longer than is worth it, and tells whether it was lost.
func (l *Log) brief(ctx context.Context, ask func(context.Context) (*nats.Msg, error)) (m *nats.Msg, lost bool, err error) {
	short, cancel := context.WithTimeout(ctx, directWithin)
	defer cancel()
	m, err = ask(short)
	lost = err != nil && short.Err() != nil && ctx.Err() == nil
	if lost {
		l.j.shun()
	}
	return m, lost, err
}

// messageGet is the question for a record of a stream's leader.
type messageGet struct {
	Seq  uint64 `json:"seq,omitempty"`
	Next string `json:"next_by_subj,omitempty"` // the first from Seq on whose subject matches
	Last string `json:"last_by_subj,omitempty"`
}

// leaderGet asks the leader. The answer is in the form of one to a direct get.
func (l *Log) leaderGet(ctx context.Context, q messageGet) (*nats.Msg, error) {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	request, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	m, err := l.j.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+l.name, request)
	if err != nil {
		return nil, unavailable(err)
	}
	return parseStored(m.Data)
}

func parseStored(answer []byte) (*nats.Msg, error) {
	var r struct {
		Error   json.RawMessage `json:"error"`
		Message *struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(answer, &r); err != nil {
		return nil, fmt.Errorf("%w: record: %w", ErrUnavailable, err)
	}
	out := &nats.Msg{Header: nats.Header{}}
	switch {
	case len(r.Error) > 0:
		err := refusal(answer)
		if !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		out.Header.Set("Status", "404")
		return out, nil
	case r.Message == nil || r.Message.Seq == 0:
		return nil, fmt.Errorf("%w: record: nothing was answered", ErrUnavailable)
	case len(r.Message.Header) > 0:
		h, err := nats.DecodeHeadersMsg(r.Message.Header)
		if err != nil {
			return nil, fmt.Errorf("%w: record: %w", ErrUnavailable, err)
		}
		out.Header = h
	}
	out.Header.Del("Status")
	out.Header.Set("Nats-Sequence", strconv.FormatUint(r.Message.Seq, 10))
	out.Header.Set("Nats-Time-Stamp", r.Message.Time.UTC().Format(time.RFC3339Nano))
	out.Header.Set("Nats-Subject", r.Message.Subject)
	out.Data = r.Message.Data
	return out, nil
}

// leaderMessages is messages, of the leader: one by one.
func (l *Log) leaderMessages(ctx context.Context, first, last uint64, fn func(uint64, *nats.Msg) error) (next uint64, err error) {
	for next = first; next <= last; {
		m, err := l.leaderGet(ctx, messageGet{Seq: next, Next: ">"})
		if err != nil {
			return 0, err
		}
		if m.Header.Get("Status") == "404" {
			return last + 1, l.missing(ctx, next, last)
		}
		seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%w: sequence of a record: %w", ErrUnavailable, err)
		}
		if next = seq + 1; seq <= last {
			if err := fn(seq, m); err != nil {
				return 0, err
			}
		}
	}
	return next, nil
}

// fromLeader is Get in a cluster: who lost a compare-and-set is not told what stood there before by a replica that lags.
func (b *Bucket) fromLeader(ctx context.Context, key string) (Item, error) {
	if !validKey(key) {
		return Item{}, fmt.Errorf("journal: %w", jetstream.ErrInvalidKey)
	}
	m, err := b.log.leaderGet(ctx, messageGet{Last: "$KV." + b.kv.Bucket() + "." + key})
	if err != nil {
		return Item{}, err
	}
	if m.Header.Get("Status") == "404" || m.Header.Get(kvOperation) != "" {
		return Item{}, ErrNotFound
	}
	msg, _, err := b.log.direct(m)
	return Item{Key: key, Value: msg.Payload, Revision: msg.Seq, Time: msg.Time}, err
}

// validKey tells whether a key is one of Bucket's, which no subject matches but itself.
func validKey(key string) bool {
	return key != "" && len(key) <= 200 && key[0] != '.' && key[len(key)-1] != '.' && !strings.Contains(key, "..") &&
		strings.Trim(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-/=.") == ""
}
