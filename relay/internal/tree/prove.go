package tree

import (
	"context"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/proof"
)

// Inclusion proves that the record at a sequence stands in the newest checkpoint's tree. It is journal.ErrNotFound where that has no such
// record, or the record is gone.
func (t *Tree) Inclusion(ctx context.Context, seq uint64) (p proof.Inclusion, err error) {
	h := t.now()
	if seq == 0 || seq > uint64(h.Size) {
		return p, journal.ErrNotFound
	}
	m, err := t.o.Log.Get(ctx, seq)
	if err != nil {
		return p, err
	}
	p = proof.Inclusion{Index: int64(seq) - 1, Record: m.Payload, Checkpoint: h.signed}
	err = t.tiles.read(ctx, h.tree(), func(r tlog.HashReader) error {
		p.Path, err = tlog.ProveRecord(h.Size, p.Index, r)
		return err
	})
	if err != nil {
		return p, fmt.Errorf("prove record %d: %w", seq, err)
	}
	if tlog.CheckRecord(p.Path, h.Size, h.Root, p.Index, proof.RecordHash(p.Record)) != nil {
		t.Doubt()
		return p, fmt.Errorf("%w: record %d is not the one that was written", ErrBroken, seq)
	}
	return p, nil
}

// Consistency proves that the newest checkpoint's log goes on where it ended when it had old records. It is journal.ErrNotFound where it never had so many.
func (t *Tree) Consistency(ctx context.Context, old int64) (p proof.Consistency, err error) {
	h := t.now()
	if old < 0 || old > h.Size || h.signed == nil {
		return p, journal.ErrNotFound
	}
	p = proof.Consistency{Old: old, Checkpoint: h.signed}
	if old == 0 || old == h.Size {
		return p, nil
	}
	err = t.tiles.read(ctx, h.tree(), func(r tlog.HashReader) error {
		p.Path, err = tlog.ProveTree(h.Size, old, r)
		return err
	})
	return p, err
}

// Leaves are those of the records at sequences first to last, which the newest checkpoint's tree has.
func (t *Tree) Leaves(ctx context.Context, first, last uint64) (leaves []proof.Hash, err error) {
	h := t.now()
	if first == 0 || last > uint64(h.Size) || last < first {
		return nil, journal.ErrNotFound
	}
	at := make([]int64, 0, last-first+1)
	for seq := first; seq <= last; seq++ {
		at = append(at, tlog.StoredHashIndex(0, int64(seq)-1))
	}
	err = t.tiles.read(ctx, h.tree(), func(r tlog.HashReader) error {
		leaves, err = r.ReadHashes(at)
		return err
	})
	return leaves, err
}

// Tops stand for the records before an index in the tree of a checkpoint (see proof.Range).
func (t *Tree) Tops(ctx context.Context, of proof.Checkpoint, index int64) (tops []proof.Hash, err error) {
	var at []int64
	for n, left := int64(0), index; left > 0; {
		level := 63 - bits.LeadingZeros64(uint64(left))
		at = append(at, tlog.StoredHashIndex(level, n>>level))
		n += 1 << level
		left -= 1 << level
	}
	if len(at) == 0 {
		return nil, nil
	}
	err = t.tiles.read(ctx, tlog.Tree{N: of.Size, Hash: of.Root}, func(r tlog.HashReader) error {
		tops, err = r.ReadHashes(at)
		return err
	})
	return tops, err
}
