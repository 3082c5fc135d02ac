package audit

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/proof"
)

// Source is the AUDIT log as it is read; *journal.Audit is one.
type Source interface {
	State(ctx context.Context) (journal.State, error)
	Synced(ctx context.Context) (uint64, error)
	Range(ctx context.Context, first, last uint64, fn func(journal.Message) error) error
	Read(ctx context.Context, from uint64, fn func(journal.Message) error) error
	Get(ctx context.Context, seq uint64) (journal.Message, error)
}

// Tree has the hashes of the records; *tree.Tree is one.
type Tree interface {
	Await(ctx context.Context, seq uint64) (proof.Checkpoint, []byte)
	Checkpoint() (proof.Checkpoint, []byte)
	Leaves(ctx context.Context, first, last uint64) ([]proof.Hash, error)
	Tops(ctx context.Context, of proof.Checkpoint, index int64) ([]proof.Hash, error)
	Doubt()
}

// Reader reads the log, and tells which records are not the ones that were written.
type Reader struct {
	Log  Source
	Tree Tree
}

// Entry is a record at its place.
type Entry struct {
	Record // empty where it cannot be read
	Seq    uint64
	Raw    []byte // as it is stored
	// Tampered: it is not the record that the signed tree has at this place, or none that can be read.
	Tampered bool
}

// Query asks for entries. Zero fields do not narrow it.
type Query struct {
	Tenant, Account, Object, ActID string
	Act                            string // exact, or the beginning of acts such as endpoint.*
	Outcome                        Outcome
	After, Before                  time.Time
	PageSize                       int // required
	PageToken                      string
}

// Page is one page of a list, newest first. NextPageToken is empty on the last page.
type Page struct {
	Entries       []Entry
	NextPageToken string
}

// ErrPageToken is for a token that no page gave.
var ErrPageToken = errors.New("not a page token")

const (
	listBlock = 256
	// listMost bounds the records that one page may cost.
	listMost = 20_000
	// clocks is how far those of several processes may be apart: the log is in the order of its writing.
	clocks = 5 * time.Minute
)

// List reads a page, at most listMost records back from where the one before it ended.
func (r *Reader) List(ctx context.Context, q Query) (Page, error) {
	st, err := r.Log.State(ctx)
	if err != nil {
		return Page{}, err
	}
	upTo, err := r.Log.Synced(ctx)
	if err != nil {
		return Page{}, err
	}
	if q.PageToken != "" {
		at, err := parsePageToken(q.PageToken)
		if err != nil {
			return Page{}, err
		}
		upTo = min(upTo, at-1)
	} else if !q.Before.IsZero() && upTo >= st.First {
		upTo = r.lastBefore(ctx, st.First, upTo, q.Before.Add(clocks))
	}
	var page Page
	for left := listMost; upTo >= st.First && upTo > 0 && left > 0; left -= listBlock {
		from := max(st.First, upTo-min(upTo, listBlock)+1)
		block, err := r.block(ctx, from, upTo)
		if err != nil {
			return Page{}, err
		}
		for i := len(block) - 1; i >= 0; i-- {
			e := block[i]
			if !q.After.IsZero() && !e.Time.IsZero() && e.Time.Before(q.After.Add(-clocks)) {
				return page, nil
			}
			if !q.wants(&e) {
				continue
			}
			if len(page.Entries) == q.PageSize {
				page.NextPageToken = pageToken(page.Entries[len(page.Entries)-1].Seq)
				return page, nil
			}
			page.Entries = append(page.Entries, e)
		}
		upTo = from - 1
	}
	if upTo >= st.First && upTo > 0 {
		page.NextPageToken = pageToken(upTo + 1)
	}
	return page, nil
}

// lastBefore is the last sequence whose record is older than a time, by halving, or one after it: what cannot be read is taken for older. It goes
// by the records' own times: those of the log are of when it was restored, where it was.
func (r *Reader) lastBefore(ctx context.Context, first, last uint64, before time.Time) uint64 {
	low, high := first, last+1 // all below low are older, none from high on
	for low < high {
		middle := low + (high-low)/2
		m, err := r.Log.Get(ctx, middle)
		if err == nil && !entry(m).Time.Before(before) {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return low - 1
}

// block is the entries of a part of the log, each compared with its leaf.
func (r *Reader) block(ctx context.Context, first, last uint64) ([]Entry, error) {
	var out []Entry
	err := r.Log.Range(ctx, first, last, func(m journal.Message) error {
		out = append(out, entry(m))
		return nil
	})
	if err != nil {
		return nil, err
	}
	c, _ := r.Tree.Checkpoint()
	if last = min(last, uint64(c.Size)); last < first {
		return out, nil
	}
	leaves, err := r.Tree.Leaves(ctx, first, last)
	if err != nil {
		return nil, err
	}
	for i := range out {
		if e := &out[i]; e.Seq <= last && leaves[e.Seq-first] != proof.RecordHash(e.Raw) {
			e.Tampered = true
			r.Tree.Doubt()
		}
	}
	return out, nil
}

func entry(m journal.Message) Entry {
	record, err := Decode(m.Payload)
	return Entry{Record: record, Seq: m.Seq, Raw: m.Payload, Tampered: err != nil}
}

func (q *Query) wants(e *Entry) bool {
	return (q.Tenant == "" || e.Tenant == q.Tenant) && (q.Account == "" || e.Account == q.Account) && (q.Object == "" || e.Object == q.Object) &&
		(q.ActID == "" || e.ActID == q.ActID) && (q.Outcome == "" || e.Outcome == q.Outcome) && wantsAct(q.Act, e.Act) &&
		(q.After.IsZero() || !e.Time.Before(q.After)) && (q.Before.IsZero() || e.Time.Before(q.Before))
}

func wantsAct(pattern, act string) bool {
	if begin, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(act, begin)
	}
	return pattern == "" || pattern == act
}

// A page token is the sequence of the last entry that was looked at.
func pageToken(seq uint64) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatUint(seq, 10)))
}

func parsePageToken(token string) (uint64, error) {
	text, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return 0, ErrPageToken
	}
	seq, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil || seq == 0 || pageToken(seq) != token {
		return 0, ErrPageToken
	}
	return seq, nil
}

// Watch calls fn with each entry from now on that a query asks for, until ctx ends or fn returns an error. Pages and times do not count.
func (r *Reader) Watch(ctx context.Context, q Query, fn func(Entry) error) error {
	upTo, err := r.Log.Synced(ctx)
	if err != nil {
		return err
	}
	return r.Log.Read(ctx, upTo+1, func(m journal.Message) error {
		if e := entry(m); q.wants(&e) {
			return fn(e)
		}
		return nil
	})
}

// Latest is the newest checkpoint, with all that was durable before the call where that does not take longer than within.
func (r *Reader) Latest(ctx context.Context, within time.Duration) (c proof.Checkpoint, signed []byte, first uint64, err error) {
	st, err := r.Log.State(ctx)
	if err != nil {
		return c, nil, 0, err
	}
	upTo, err := r.Log.Synced(ctx)
	if err != nil {
		return c, nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	c, signed = r.Tree.Await(ctx, upTo)
	if st.Messages > 0 {
		first = st.First
	}
	return c, signed, first, nil
}

// ErrTrimmed is for an export whose records were given up while it was read.
var ErrTrimmed = errors.New("records were trimmed meanwhile: begin again")

// Export writes the records from a sequence on, or from the oldest that is there, to the newest checkpoint.
func (r *Reader) Export(ctx context.Context, first uint64, within time.Duration, to io.Writer) (records int64, err error) {
	c, signed, oldest, err := r.Latest(ctx, within)
	if err != nil {
		return 0, err
	}
	if signed == nil {
		return 0, journal.ErrNotFound
	}
	next := max(first, oldest, 1)
	if next > uint64(c.Size)+1 {
		next = uint64(c.Size) + 1
	}
	tops, err := r.Tree.Tops(ctx, c, int64(next)-1)
	if err != nil {
		return 0, err
	}
	w, err := proof.NewExportWriter(to, signed, int64(next)-1, tops)
	if err != nil {
		return 0, err
	}
	err = r.Log.Range(ctx, next, uint64(c.Size), func(m journal.Message) error {
		if m.Seq != next {
			return fmt.Errorf("record %d is not there: %w", next, ErrTrimmed)
		}
		next++
		records++
		return w.Add(m.Payload)
	})
	if err == nil && next != uint64(c.Size)+1 {
		err = fmt.Errorf("record %d is not there: %w", next, ErrTrimmed)
	}
	if err != nil {
		return records, err
	}
	return records, w.Close()
}
