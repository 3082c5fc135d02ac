package partition

import (
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/record"
)

const (
	// recordFor is how long outcomes are gathered for one record of the log: a crash within it sends again what ended in it, as it
	// does what is in flight. A record costs the journal the same whether it holds one outcome or a hundred.
	recordFor = time.Millisecond
	// recordBytes is from what size on a record is not added to.
	recordBytes = 64 << 10
)

// recording is the record of outcomes that is being filled.
type recording struct {
	bytes []byte
	seq   uint64 // in OUTCOMES, once it is appended
	began time.Time
}

// record makes the state say what an outcome says, and has it appended with others, within recordFor. It is durable after the
// next sync; until then a crash loses it, and its event is routed, or its delivery sent, again.
func (l *loop) record(o *relay.Outcome, first, busy bool) error {
	o.Partition = l.o.Partition
	if o.Time.IsZero() {
		o.Time = l.o.Clock()
	}
	r := &l.recording
	if len(r.bytes) == 0 {
		r.seq, r.began = l.appender.Last()+1, time.Now()
	}
	var err error
	if r.bytes, err = record.AppendOutcome(r.bytes, o); err != nil {
		return err
	}
	l.state.Apply(r.seq, o, first, busy)
	l.replays.passed(o)
	if o.Retold == 0 {
		l.metrics.outcome(o)
		l.countOutcome(o)
		l.alertDead(o)
	}
	if len(r.bytes) >= recordBytes {
		return l.append()
	}
	return nil
}

// appendDue appends what has been gathered for long enough. While the log still has a record before it to take, what is gathered would
// only wait there: records of a millisecond each, one after the other, would come to lie seconds behind a slow cluster, and all that ended
// since would be sent again after a crash.
func (l *loop) appendDue() error {
	if len(l.recording.bytes) == 0 || time.Since(l.recording.began) < recordFor || l.appender.Waiting() {
		return nil
	}
	return l.append()
}

// append appends what is gathered: from here on the log has all that the state has.
func (l *loop) append() error {
	r := &l.recording
	if len(r.bytes) == 0 {
		return nil
	}
	if _, err := l.appender.Append(l.work, r.bytes); err != nil {
		return err
	}
	r.bytes = r.bytes[:0]
	l.state.Whole()
	if !l.unsynced {
		l.unsynced = true
		signal(l.dirtyC)
	}
	return nil
}
