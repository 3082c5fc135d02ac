package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
)

// ack is the server's word on one record.
type ack struct {
	seq       uint64
	duplicate bool
	err       error
}

var errInProcess = errors.New("journal: an event of this id is being written")

// parseAck reads an acknowledgement.
func parseAck(m *nats.Msg) ack {
	if len(m.Data) == 0 {
		return ack{err: fmt.Errorf("%w: no stream listens (status %q)", ErrUnavailable, m.Header.Get("Status"))}
	}
	if a, ok := plainAck(m.Data); ok {
		return a
	}
	return jsonAck(m.Data)
}

// plainAck reads what the server writes for a record it stored, or had stored,
// {"stream":"X","seq":12,"duplicate": true}, and leaves all else to jsonAck. TestAckOfServer holds it against what it does write.
func plainAck(b []byte) (a ack, ok bool) {
	b, ok = bytes.CutPrefix(b, []byte(`{"stream":"`))
	for ok && len(b) > 0 && ' ' < b[0] && b[0] <= '~' && b[0] != '"' && b[0] != '\\' {
		b = b[1:]
	}
	b, found := bytes.CutPrefix(b, []byte(`","seq":`))
	if !ok || !found || len(b) == 0 || b[0] == '0' {
		return ack{}, false
	}
	n := 0
	for ; n < len(b) && n < 19 && '0' <= b[n] && b[n] <= '9'; n++ {
		a.seq = a.seq*10 + uint64(b[n]-'0')
	}
	switch string(b[n:]) {
	case "}":
	case `,"duplicate": true}`:
		a.duplicate = true
	default:
		return ack{}, false
	}
	return a, a.seq > 0
}

func jsonAck(b []byte) ack {
	var r struct {
		Error     json.RawMessage `json:"error"`
		Seq       uint64          `json:"seq"`
		Duplicate bool            `json:"duplicate"`
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return ack{err: fmt.Errorf("%w: acknowledgement: %w", ErrUnavailable, err)}
	}
	if len(r.Error) > 0 {
		return ack{err: refusal(b)}
	}
	if r.Seq == 0 {
		return ack{err: fmt.Errorf("%w: acknowledgement without a sequence", ErrUnavailable)}
	}
	return ack{seq: r.Seq, duplicate: r.Duplicate}
}

// refusal translates an error of the JetStream API by its code
// (nats-server, server/errors.json).
func refusal(data []byte) error {
	var r struct {
		Error struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("%w: acknowledgement: %w", ErrUnavailable, err)
	}
	var kind error
	switch code := r.Error.Code; {
	case code == 10070, code == 10071, code == 10164: // wrong last message id, sequence
		kind = ErrFenced
	case code == 10158: // duplicate message id is in process
		return errInProcess
	case code == 10043, code == 10037: // no such sequence, message
		kind = ErrNotFound
	case code == 10054 || code == 10097: // message, header exceeds the maximum
		kind = ErrTooLarge
	case code == 10077 && strings.Contains(r.Error.Description, "maximum"), // store failed: maximum bytes exceeded
		code == 10002, code == 10023, code == 10047: // account's, server's, storage's limits
		kind = ErrFull
	case code == 10167: // too many requests
		kind = ErrBusy
	default:
		kind = ErrUnavailable
	}
	return fmt.Errorf("%w: %s (%d)", kind, r.Error.Description, r.Error.Code)
}

// writer publishes records to one stream and has their acknowledgements come to
// one subscription: a slot of a fixed window each, so that a record costs neither
// a subscription nor a reply subject of its own. Its publish is for one goroutine.
type writer struct {
	nc      *nats.Conn
	msg     nats.Msg
	replies []string
	sub     *nats.Subscription
	onAck   func(slot int, a ack)
}

func newWriter(nc *nats.Conn, subject string, window int, onAck func(int, ack)) (*writer, error) {
	w := &writer{nc: nc, replies: make([]string, window), onAck: onAck}
	w.msg.Subject = subject
	w.msg.Header = nats.Header{}
	return w, w.reset()
}

// reset takes a new inbox, so that late answers to the former are not taken for
// answers to what is sent next.
func (w *writer) reset() error {
	w.close()
	inbox := w.nc.NewInbox()
	for i := range w.replies {
		w.replies[i] = inbox + "." + strconv.Itoa(i)
	}
	prefix := len(inbox) + 1
	sub, err := w.nc.Subscribe(inbox+".*", func(m *nats.Msg) {
		slot, err := strconv.Atoi(m.Subject[prefix:])
		if err == nil && 0 <= slot && slot < len(w.replies) {
			w.onAck(slot, parseAck(m))
		}
	})
	if err != nil {
		return unavailable(err)
	}
	w.sub = sub
	return unavailable(sub.SetPendingLimits(-1, -1))
}

// header keeps a header of the records to come; its value is set through the slice.
func (w *writer) header(name string) []string {
	value := make([]string, 1)
	w.msg.Header[name] = value
	return value
}

func (w *writer) publish(slot int, data []byte) error {
	w.msg.Reply = w.replies[slot]
	w.msg.Data = data
	return unavailable(w.nc.PublishMsg(&w.msg))
}

func (w *writer) close() {
	if w.sub != nil {
		w.sub.Unsubscribe()
	}
}
