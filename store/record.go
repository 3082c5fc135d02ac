package store

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/sealpost/sealpost/relay"
)

// A record is what both stores keep of a delivery: a fixed head, which the Redis scripts read too, and a body that only this
// file reads. Numbers of the head are big-endian.
//
//	0      version
//	1      state
//	2:6    partition
//	6:14   sequence in OUTCOMES of the outcome that made it
//	14:22  accept time, as sortable
//	22:26  length of the first attempt, 0 where it is not kept here
//	26:28  length of the event type
//	       event type, first attempt, body
//
// The first attempt stands in the record because most deliveries end with it: then there is nothing else to write or
// read. Larger and later attempts are kept beside it.
const (
	recordVersion  = 1
	attemptVersion = 1
	headLength     = 28
	// maxEmbedded bounds the first attempt inside a record, which lists read and every later outcome writes again.
	maxEmbedded = 640
)

// stateCodes are written to disk: they never change. Codes from firstTerminal on are terminal.
var stateCodes = [...]relay.DeliveryState{
	1: relay.Pending, 2: relay.Retrying, 3: relay.Parked, 4: relay.Held,
	5: relay.Delivered, 6: relay.Dead, 7: relay.Withheld, 8: relay.Cancelled, 9: relay.Unmatched,
}

const (
	codeDelivered = 5
	codeUnmatched = 9
	firstTerminal = codeDelivered
)

func stateCode(s relay.DeliveryState) (byte, bool) {
	for code, state := range stateCodes {
		if state == s && code != 0 {
			return byte(code), true
		}
	}
	return 0, false
}

// errRecord is what a record that this version cannot read gives: damage, or a newer writer.
var errRecord = errors.New("unreadable record")

// record is one delivery, or one unmatched event, as it is stored.
type record struct {
	relay.DeliveryStatus // without History
	sequence             uint64
	first                []byte // the first attempt, encoded; nil where it is kept elsewhere
	size                 int    // of the encoded record; set by decodeRecord
}

func (r *record) code() byte { c, _ := stateCode(r.State); return c }

// sortable makes a time's nanoseconds an unsigned number of the same order; the zero time is 0, and times that 64
// bits of nanoseconds cannot hold (before 1677, after 2262) count as the nearest that they can.
func sortable(t time.Time) uint64 {
	switch year := t.Year(); {
	case year < 1678:
		return 0
	case year > 2261:
		return math.MaxUint64
	}
	return uint64(t.UnixNano()) ^ 1<<63
}

func sortableTime(n uint64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(n^1<<63)).UTC()
}

// appendRecord encodes r after b. The id is not part of it: it is in the key.
func appendRecord(b []byte, r *record) []byte {
	b = append(b, recordVersion, r.code())
	b = binary.BigEndian.AppendUint32(b, uint32(r.Partition))
	b = binary.BigEndian.AppendUint64(b, r.sequence)
	b = binary.BigEndian.AppendUint64(b, sortable(r.AcceptTime))
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.first)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.EventType)))
	b = append(b, r.EventType...)
	b = append(b, r.first...)
	b = appendText(b, r.Tenant)
	b = appendText(b, r.EndpointID)
	b = appendText(b, r.EventID)
	b = appendText(b, string(r.Reason))
	b = appendTime(b, r.EventTime)
	b = appendTime(b, r.Due)
	b = appendTime(b, r.Deadline)
	b = appendTime(b, r.Updated)
	b = binary.AppendUvarint(b, r.Seq)
	b = appendCount(b, r.Attempts)
	b = appendCount(b, r.Redacted)
	if r.Progress == (relay.Progress{}) {
		return append(b, 0)
	}
	b = append(b, 1)
	b = append(b, r.Progress.Digest[:]...)
	b = appendCount(b, r.Progress.Next)
	return appendCount(b, r.Progress.Total)
}

// decodeRecord reads what appendRecord wrote, and nothing else: what it accepts encodes to the same bytes
// again. The result shares no memory with b but for first.
func decodeRecord(id string, b []byte) (record, error) {
	var r record
	if len(b) < headLength || b[0] != recordVersion {
		return r, fmt.Errorf("delivery %q: %w", id, errRecord)
	}
	if code := b[1]; code == 0 || int(code) >= len(stateCodes) {
		return r, fmt.Errorf("delivery %q: %w", id, errRecord)
	}
	r.ID, r.size = id, len(b)
	r.State = stateCodes[b[1]]
	partition := binary.BigEndian.Uint32(b[2:])
	r.Partition = int(partition)
	r.sequence = binary.BigEndian.Uint64(b[6:])
	r.AcceptTime = sortableTime(binary.BigEndian.Uint64(b[14:]))
	attempt, kind := binary.BigEndian.Uint32(b[22:]), binary.BigEndian.Uint16(b[26:])
	in := reader{rest: b[headLength:]}
	r.EventType = string(in.take(uint64(kind)))
	r.first = in.take(uint64(attempt))
	r.Tenant = in.text()
	r.EndpointID = in.text()
	r.EventID = in.text()
	r.Reason = relay.Reason(in.text())
	r.EventTime = in.time()
	r.Due = in.time()
	r.Deadline = in.time()
	r.Updated = in.time()
	r.Seq = in.uvarint()
	r.Attempts = in.count()
	r.Redacted = in.count()
	if in.flag() {
		copy(r.Progress.Digest[:], in.take(32))
		r.Progress.Next = in.count()
		r.Progress.Total = in.count()
		in.require(r.Progress != relay.Progress{})
	}
	in.require(partition <= math.MaxInt32 && sortable(r.AcceptTime) == binary.BigEndian.Uint64(b[14:]))
	if !in.done() {
		return record{}, fmt.Errorf("delivery %q: %w", id, errRecord)
	}
	return r, nil
}

// appendAttempt encodes a after b. What of the response is beyond relay.MaxResponseKept is left out.
func appendAttempt(b []byte, a *relay.Attempt) []byte {
	b = append(b, attemptVersion)
	b = appendCount(b, a.Number)
	b = appendCount(b, a.Chunk)
	b = appendCount(b, a.ChunkTotal)
	b = appendTime(b, a.StartTime)
	b = appendText(b, string(a.Verdict))
	b = appendText(b, string(a.Reason))
	b = appendCount(b, a.StatusCode)
	for _, d := range [...]time.Duration{a.Durations.DNS, a.Durations.Connect, a.Durations.TLS, a.Durations.FirstByte, a.Durations.Total} {
		b = binary.AppendUvarint(b, uint64(max(d, 0)))
	}
	b = appendText(b, a.RemoteAddress)
	b = appendText(b, a.TLSVersion)
	b = appendText(b, a.ServerCertificateSubject)
	b = appendDigest(b, a.ServerCertificateSHA256)
	b = appendDigest(b, a.ClientCertificateSHA256)
	b = appendText(b, a.KeyID)
	b = appendDigest(b, a.BodySHA256)
	b = appendText(b, string(a.ResponseBody[:min(len(a.ResponseBody), relay.MaxResponseKept)]))
	return binary.AppendUvarint(b, uint64(max(a.ResponseSize, 0)))
}

func decodeAttempt(b []byte) (relay.Attempt, error) {
	in := reader{rest: b}
	var a relay.Attempt
	version := in.take(1)
	in.require(version != nil && version[0] == attemptVersion)
	a.Number = in.count()
	a.Chunk = in.count()
	a.ChunkTotal = in.count()
	a.StartTime = in.time()
	a.Verdict = relay.VerdictKind(in.text())
	a.Reason = relay.Reason(in.text())
	a.StatusCode = in.count()
	for _, d := range [...]*time.Duration{&a.Durations.DNS, &a.Durations.Connect, &a.Durations.TLS, &a.Durations.FirstByte, &a.Durations.Total} {
		n := in.uvarint()
		in.require(n <= math.MaxInt64)
		*d = time.Duration(n)
	}
	a.RemoteAddress = in.text()
	a.TLSVersion = in.text()
	a.ServerCertificateSubject = in.text()
	a.ServerCertificateSHA256 = in.digest()
	a.ClientCertificateSHA256 = in.digest()
	a.KeyID = in.text()
	a.BodySHA256 = in.digest()
	if body := in.text(); body != "" {
		in.require(len(body) <= relay.MaxResponseKept)
		a.ResponseBody = []byte(body)
	}
	size := in.uvarint()
	in.require(size <= math.MaxInt64)
	a.ResponseSize = int64(size)
	if !in.done() {
		return relay.Attempt{}, fmt.Errorf("attempt: %w", errRecord)
	}
	return a, nil
}

func appendText(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendCount(b []byte, n int) []byte { return binary.AppendUvarint(b, uint64(max(n, 0))) }

// timeRange bounds the seconds of a stored time, far beyond the years 1 to 9999.
const timeRange = 1 << 40

func appendTime(b []byte, t time.Time) []byte {
	sec := t.Unix()
	if t.IsZero() || sec <= -timeRange || sec >= timeRange {
		return append(b, 0)
	}
	b = append(b, 1)
	b = binary.AppendVarint(b, sec)
	return binary.AppendUvarint(b, uint64(t.Nanosecond()))
}

// appendDigest writes 64 hex digits as 32 bytes, and any other text as it is.
func appendDigest(b []byte, s string) []byte {
	raw, ok := unhex(s)
	if !ok {
		return appendText(append(b, 0), s)
	}
	return append(append(b, 1), raw[:]...)
}

// unhex reads 64 lower-case hex digits: only what hex.EncodeToString writes.
func unhex(s string) (raw [32]byte, ok bool) {
	if len(s) != 64 {
		return raw, false
	}
	for i := range raw {
		hi, lo := nibble(s[2*i]), nibble(s[2*i+1])
		if hi > 15 || lo > 15 {
			return raw, false
		}
		raw[i] = hi<<4 | lo
	}
	return raw, true
}

func nibble(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// reader takes values off the front of a record. The first that is not as it would have been written spoils it: from
// then on all it gives is zero, and done is false.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) require(ok bool) { r.bad = r.bad || !ok }

func (r *reader) done() bool { return !r.bad && len(r.rest) == 0 }

func (r *reader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	if n == 0 {
		return nil
	}
	taken := r.rest[:n:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *reader) uvarint() uint64 {
	n, width := binary.Uvarint(r.rest)
	if r.bad || width <= 0 || width > 1 && r.rest[width-1] == 0 { // a final zero group: a longer form of a shorter number
		r.bad = true
		return 0
	}
	r.rest = r.rest[width:]
	return n
}

func (r *reader) count() int {
	n := r.uvarint()
	if n > math.MaxInt32 {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *reader) text() string { return string(r.take(r.uvarint())) }

func (r *reader) flag() bool {
	b := r.take(1)
	r.require(b != nil && b[0] <= 1)
	return !r.bad && b[0] == 1
}

func (r *reader) time() time.Time {
	if !r.flag() {
		return time.Time{}
	}
	zigzag := r.uvarint()
	sec := int64(zigzag>>1) ^ -int64(zigzag&1)
	nsec := r.uvarint()
	if r.bad || sec <= -timeRange || sec >= timeRange || nsec >= 1e9 {
		r.bad = true
		return time.Time{}
	}
	t := time.Unix(sec, int64(nsec)).UTC()
	r.require(!t.IsZero())
	return t
}

func (r *reader) digest() string {
	if r.flag() {
		return hex.EncodeToString(r.take(32))
	}
	s := r.text()
	_, packed := unhex(s)
	r.require(!packed)
	return s
}
