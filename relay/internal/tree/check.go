package tree

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/proof"
)

// The kinds of break.
const (
	kindSignature = "SIGNATURE" // the checkpoint that is kept was not signed by the key
	kindTruncated = "TRUNCATED" // the log has fewer records than its checkpoint says
	kindTree      = "TREE"      // the hashes do not make the checkpoint's root, and neither do the records
	kindRecord    = "RECORD"    // records are not those that were written
	kindRemoved   = "REMOVED"   // a record between others is not there
	kindOutside   = "OUTSIDE"   // the log does not go on where the last checkpoint outside ends
	kindStranger  = "STRANGER"  // the last checkpoint outside is of another log
)

// Break is what the log was found not to match. It is kept until somebody accepts it, so that every process knows, and after a start too.
type Break struct {
	Kind  string    `json:"kind"`
	Size  int64     `json:"size"`           // records that there were to be, or the place of one
	Root  string    `json:"root,omitempty"` // the root or leaf that was expected
	Have  int64     `json:"have"`           // records that there were when it was found
	Found string    `json:"found,omitempty"`
	Time  time.Time `json:"time"`
	Text  string    `json:"text"`
}

// id is the same for what is found again.
func (b Break) id() string {
	sum := sha256.Sum256([]byte(b.Kind + "\n" + strconv.FormatInt(b.Size, 10) + "\n" + b.Root + "\n" + b.Found))
	return hex.EncodeToString(sum[:16])
}

// maxAccepted bounds the breaks that are remembered as accepted.
const maxAccepted = 256

// raise keeps a break, unless it was accepted or another waits to be.
func (t *Tree) raise(ctx context.Context, b Break) error {
	b.Time = t.o.Clock().UTC()
	t.mu.Lock()
	skip := slices.Contains(t.accepted, b.id()) || t.broken != nil
	if !skip {
		t.broken = &b // for this process it holds from here on, also where it cannot be kept
	}
	t.mu.Unlock()
	if skip {
		return nil
	}
	t.log.Error("the audit log is not what its checkpoints say: no privileged act is done until that is accepted (sealpost audit accept)",
		"kind", b.Kind, "found", b.Text)
	value, err := json.Marshal(b)
	if err == nil {
		_, err = t.o.State.Put(ctx, keyBreak, value)
	}
	return err
}

// unsure tells whether it is not known yet that the log is whole.
func (t *Tree) unsure() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pending != nil
}

// stuck tells whether the tree cannot grow: its end is not where the log's is.
func (t *Tree) stuck() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.broken != nil && t.broken.Kind != kindRecord && t.broken.Kind != kindOutside && t.broken.Kind != kindStranger
}

// Accept has what was found pass from here on, and answers what it was; nil: nothing is amiss. The caller answers for the record of who accepts it
// and why. What was found stays as it is: in the log, in its tree where that has the hashes of what was there, and outside.
func (t *Tree) Accept(ctx context.Context) (*Break, error) {
	t.mu.Lock()
	b, accepted := t.broken, slices.Clone(t.accepted)
	t.mu.Unlock()
	if b == nil {
		return nil, nil
	}
	accepted = append(accepted, b.id())
	value, err := json.Marshal(accepted[max(0, len(accepted)-maxAccepted):])
	if err != nil {
		return nil, err
	}
	if err := t.mend(ctx, b); err != nil {
		return nil, err
	}
	// Killed here, it is found and accepted once more.
	if _, err := t.o.State.Put(ctx, keyAccepted, value); err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.accepted = accepted
	t.settle()
	t.mu.Unlock()
	return b, t.check(ctx)
}

// Broken is what is amiss and not accepted, or nil.
func (t *Tree) Broken() *Break {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.broken
}

// mend makes the tree one that can grow by the log as it is: it ends where the log ended when the break was found, and has the hashes that were
// there before, where there are some.
func (t *Tree) mend(ctx context.Context, b *Break) error {
	h := t.now()
	switch b.Kind {
	case kindTruncated:
		size := min(b.Have, h.Size)
		root, err := t.tiles.rootAt(ctx, h.tree(), size)
		if err != nil {
			return err
		}
		return t.sign(ctx, h, tlog.Tree{N: size, Hash: root})
	case kindRemoved:
		more, _, err := t.leaves(ctx, uint64(h.Size)+1, uint64(b.Size))
		if err != nil {
			return err
		}
		now, err := t.tiles.extend(ctx, h.tree(), more)
		if err != nil {
			return err
		}
		return t.sign(ctx, h, now)
	case kindTree, kindSignature:
		synced, err := t.o.Log.Synced(ctx)
		if err != nil {
			return err
		}
		now, err := t.rebuild(ctx, int64(synced))
		if err != nil {
			return err
		}
		return t.sign(ctx, h, now)
	}
	return nil
}

// check compares the log with the head, and with the last checkpoint outside, as long as it is not known to be whole.
func (t *Tree) check(ctx context.Context) error {
	t.checking.Lock()
	defer t.checking.Unlock()
	t.mu.Lock()
	h, known, broken := t.head, t.pending == nil, t.broken != nil
	t.mu.Unlock()
	st, err := t.o.Log.State(ctx)
	if err != nil {
		return err
	}
	if h.Size > int64(st.Last) {
		if t.waits() {
			return nil
		}
		return t.raise(ctx, Break{Kind: kindTruncated, Size: h.Size, Root: proof.FormatHash(h.Root), Have: int64(st.Last),
			Text: fmt.Sprintf("it has %d records, and had %d", st.Last, h.Size)})
	}
	t.growing.shortSince = time.Time{}
	if known || broken {
		return nil
	}
	if h.signed != nil && h.Origin == "" {
		return t.raise(ctx, Break{Kind: kindSignature, Found: digest(h.signed), Have: int64(st.Last), Text: "its checkpoint is not signed by its key"})
	}
	if whole, err := t.checkTree(ctx, h); err != nil || !whole {
		return err
	}
	pending, err := t.checkOutside(ctx, h, st)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pending = pending
	return nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// waits tells whether a log that says that it is shorter is waited for.
func (t *Tree) waits() bool {
	since := &t.growing.shortSince
	if since.IsZero() {
		*since = time.Now()
	}
	return time.Since(*since) < t.o.Patience
}

// checkTree tells whether the tiles make the head's root, and makes them anew of the records where they do not.
func (t *Tree) checkTree(ctx context.Context, h head) (whole bool, err error) {
	root, err := t.tiles.rootAt(ctx, h.tree(), h.Size)
	if err == nil && root == h.Root {
		return true, nil
	}
	if errors.Is(err, journal.ErrUnavailable) || ctx.Err() != nil {
		return false, err
	}
	t.log.Warn("the audit tree's hashes are made anew of the records", "error", err)
	now, err := t.rebuild(ctx, h.Size)
	if err != nil {
		return false, err
	}
	if now.Hash == h.Root {
		return true, nil
	}
	return false, t.raise(ctx, Break{Kind: kindTree, Size: h.Size, Root: proof.FormatHash(h.Root), Found: proof.FormatHash(now.Hash), Have: h.Size,
		Text: fmt.Sprintf("its %d records do not make the tree that was signed", h.Size)})
}

// rebuild makes the tiles of the first records anew: of the records, and where they are gone, of the hashes that are kept, or if need be of none.
func (t *Tree) rebuild(ctx context.Context, size int64) (tlog.Tree, error) {
	t.tiles.forget()
	now := tlog.Tree{Hash: proof.EmptyRoot()}
	for now.N < size {
		to := min(size, now.N+growBy)
		leaves, missing, err := t.leaves(ctx, uint64(now.N)+1, uint64(to))
		if err != nil {
			return now, err
		}
		for _, seq := range missing {
			n := int64(seq) - 1
			raw, err := t.tiles.get(ctx, place{0, n >> height}, int(n&(1<<height-1)+1)*tlog.HashSize)
			if errors.Is(err, errTiles) {
				continue
			} else if err != nil {
				return now, err
			}
			leaves[n-now.N] = proof.Hash(raw[len(raw)-tlog.HashSize:])
		}
		if now, err = t.tiles.extend(ctx, now, leaves); err != nil {
			return now, err
		}
	}
	return now, nil
}

// checkOutside tells what the last checkpoint outside says of the log; pending: that it has to grow first.
func (t *Tree) checkOutside(ctx context.Context, h head, st journal.State) (pending, err error) {
	if t.outside == nil {
		return nil, nil
	}
	c, line, err := t.outside.last(t.key)
	switch {
	case errors.Is(err, proof.ErrSignature):
		return nil, t.raise(ctx, Break{Kind: kindStranger, Found: digest(line), Have: int64(st.Last),
			Text: "the last checkpoint in " + t.outside.path + " is not of this log: the log was made anew, or the file is another's"})
	case err != nil:
		return nil, err
	case line == nil:
		return nil, nil
	}
	if c.Size > h.Size && c.Size <= int64(st.Last) {
		return fmt.Errorf("its tree has %d records, and the last checkpoint outside is of %d", h.Size, c.Size), nil
	}
	b := Break{Kind: kindOutside, Size: c.Size, Root: proof.FormatHash(c.Root), Have: int64(st.Last)}
	if c.Size > h.Size {
		b.Text = fmt.Sprintf("it has %d records, and the last checkpoint in %s is of %d: a copy was restored, or it was made anew", st.Last, t.outside.path, c.Size)
		return nil, t.raise(ctx, b)
	}
	root, err := t.tiles.rootAt(ctx, h.tree(), c.Size)
	if err != nil {
		return nil, err
	}
	if root != c.Root {
		b.Text = fmt.Sprintf("its first %d records are not those of the last checkpoint in %s: a copy was restored, or it was made anew", c.Size, t.outside.path)
		return nil, t.raise(ctx, b)
	}
	return nil, nil
}

// Scrub compares every record that is there with its leaf, at half of the speed that it could, and answers how many there were.
func (t *Tree) Scrub(ctx context.Context) (n int64, err error) {
	h := t.now()
	st, err := t.o.Log.State(ctx)
	if err != nil {
		return 0, err
	}
	first, count := int64(0), int64(0)
	sum := sha256.New()
	wrong := func(seq uint64, got string) {
		if count++; first == 0 {
			first = int64(seq)
		}
		fmt.Fprintf(sum, "%d %s\n", seq, got)
	}
	for from := st.First; from <= uint64(h.Size); {
		began := time.Now()
		to := min(from+growBy-1, uint64(h.Size))
		want, err := t.Leaves(ctx, from, to)
		if err != nil {
			return n, err
		}
		got, missing, err := t.leaves(ctx, from, to)
		if err != nil {
			return n, err
		}
		for i := range got {
			seq := from + uint64(i)
			switch {
			case slices.Contains(missing, seq):
				// What was trimmed meanwhile is no loss.
				if now, err := t.o.Log.State(ctx); err != nil {
					return n, err
				} else if seq >= now.First {
					wrong(seq, "")
				}
			case got[i] != want[i]:
				wrong(seq, proof.FormatHash(got[i]))
			default:
				n++
			}
		}
		from = to + 1
		select {
		case <-time.After(time.Since(began)):
		case <-ctx.Done():
			return n, ctx.Err()
		}
	}
	if count == 0 {
		return n, nil
	}
	return n, t.raise(ctx, Break{Kind: kindRecord, Size: first, Have: int64(st.Last), Found: hex.EncodeToString(sum.Sum(nil)),
		Text: fmt.Sprintf("%d of its records are not those that were written; the first is record %d", count, first)})
}

// Doubt has the records compared with their hashes soon, where this process grows the tree.
func (t *Tree) Doubt() {
	select {
	case t.rescrub <- struct{}{}:
	default:
	}
}
