package tree

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/proof"
)

// generateKey makes a key pair whose name no other log has.
func generateKey() (private, public string, err error) {
	var id [8]byte
	rand.Read(id[:])
	return note.GenerateKey(rand.Reader, "sealpost.audit/"+hex.EncodeToString(id[:]))
}

// tiles are the tree's hashes in a bucket, a value for each tile: whole ones never change, the last of each level is replaced by wider ones.
type tiles struct {
	bucket Bucket

	mu   sync.Mutex
	have map[place]stored
}

// place is a tile's, however wide it is.
type place struct {
	level int
	n     int64
}

type stored struct {
	data     []byte
	revision uint64
}

const (
	wholeTile = 1 << height * tlog.HashSize
	// maxTiles bounds the whole tiles in memory.
	maxTiles = 256
)

func newTiles(b Bucket) *tiles { return &tiles{bucket: b, have: map[place]stored{}} }

func (p place) key() string { return fmt.Sprintf("tile/%d/%d", p.level, p.n) }

// get is a tile as it is kept, at least so wide.
func (t *tiles) get(ctx context.Context, p place, size int) ([]byte, error) {
	t.mu.Lock()
	one := t.have[p]
	t.mu.Unlock()
	if len(one.data) >= size {
		return one.data[:size], nil
	}
	one, err := t.load(ctx, p)
	if err != nil {
		return nil, err
	}
	if len(one.data) < size {
		return nil, fmt.Errorf("%w: %s holds %d hashes and not %d", errTiles, p.key(), len(one.data)/tlog.HashSize, size/tlog.HashSize)
	}
	return one.data[:size], nil
}

// errTiles is for tiles that are not there or not what they were.
var errTiles = errors.New("the tree's hashes are damaged")

func (t *tiles) load(ctx context.Context, p place) (stored, error) {
	item, err := t.bucket.Get(ctx, p.key())
	if errors.Is(err, journal.ErrNotFound) {
		return stored{}, fmt.Errorf("%w: %s is not there", errTiles, p.key())
	} else if err != nil {
		return stored{}, err
	}
	one := stored{item.Value, item.Revision}
	t.keep(p, one)
	return one, nil
}

func (t *tiles) keep(p place, one stored) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.have) > maxTiles {
		for p, old := range t.have {
			if len(old.data) == wholeTile {
				delete(t.have, p)
			}
		}
	}
	t.have[p] = one
}

func (t *tiles) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.have)
}

// put replaces a tile, unless another process has since it was read here.
func (t *tiles) put(ctx context.Context, p place, data []byte) error {
	t.mu.Lock()
	one, known := t.have[p]
	t.mu.Unlock()
	if !known {
		var err error
		if one, err = t.load(ctx, p); err != nil && !errors.Is(err, errTiles) {
			return err
		}
	}
	if bytes.Equal(one.data, data) {
		return nil
	}
	var err error
	if one.revision == 0 {
		one.revision, err = t.bucket.Create(ctx, p.key(), data)
	} else {
		one.revision, err = t.bucket.Update(ctx, p.key(), data, one.revision)
	}
	if err != nil {
		t.forget()
		if errors.Is(err, journal.ErrRevision) {
			return errRaced
		}
		return fmt.Errorf("%s: %w", p.key(), err)
	}
	t.keep(p, stored{data, one.revision})
	return nil
}

// reading is the tiles for the length of a call, as the library wants them.
type reading struct {
	*tiles
	ctx context.Context
}

// Height is a tile's.
func (r reading) Height() int { return height }

// ReadTiles reads tiles as wide as they are asked for.
func (r reading) ReadTiles(list []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(list))
	for i, one := range list {
		var err error
		if out[i], err = r.get(r.ctx, place{one.L, one.N}, one.W*tlog.HashSize); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// SaveTiles is for those who have a cache of their own for what was found right.
func (reading) SaveTiles([]tlog.Tile, [][]byte) {}

// hashes reads nodes of a tree, each checked against its root.
func (t *tiles) hashes(ctx context.Context, of tlog.Tree) tlog.HashReader {
	return tlog.TileHashReader(of, reading{t, ctx})
}

// read runs what reads hashes, and once more without what is in memory where that does not fit: another process may have cut the tree.
func (t *tiles) read(ctx context.Context, of tlog.Tree, fn func(tlog.HashReader) error) error {
	err := fn(t.hashes(ctx, of))
	if err == nil || ctx.Err() != nil {
		return err
	}
	t.forget()
	return fn(t.hashes(ctx, of))
}

// rootAt is the root that a tree had at an earlier size.
func (t *tiles) rootAt(ctx context.Context, of tlog.Tree, size int64) (root proof.Hash, err error) {
	if size == 0 {
		return proof.EmptyRoot(), nil
	}
	err = t.read(ctx, of, func(r tlog.HashReader) error {
		root, err = tlog.TreeHash(size, r)
		return err
	})
	return root, err
}

// extend writes the tiles that more leaves make of a tree, and returns the tree that then is. No tile is written that does not belong to it.
func (t *tiles) extend(ctx context.Context, from tlog.Tree, leaves []proof.Hash) (tlog.Tree, error) {
	fresh := make(map[int64]proof.Hash, 2*len(leaves))
	old := t.hashes(ctx, from)
	both := tlog.HashReaderFunc(func(at []int64) ([]proof.Hash, error) {
		out := make([]proof.Hash, len(at))
		var ask []int64
		for i, n := range at {
			var ok bool
			if out[i], ok = fresh[n]; !ok {
				ask = append(ask, n)
			}
		}
		if len(ask) == 0 {
			return out, nil
		}
		found, err := old.ReadHashes(ask)
		if err != nil {
			return nil, err
		}
		for i, n := range at {
			if _, ok := fresh[n]; !ok {
				out[i], found = found[0], found[1:]
			}
		}
		return out, nil
	})
	n := from.N
	for _, leaf := range leaves {
		more, err := tlog.StoredHashesForRecordHash(n, leaf, both)
		if err != nil {
			return from, err
		}
		for i, h := range more {
			fresh[tlog.StoredHashIndex(0, n)+int64(i)] = h
		}
		n++
	}
	root, err := tlog.TreeHash(n, both)
	if err != nil {
		return from, err
	}
	for _, tile := range tlog.NewTiles(height, from.N, n) {
		data, err := tlog.ReadTileData(tile, both)
		if err != nil {
			return from, err
		}
		if err := t.put(ctx, place{tile.L, tile.N}, data); err != nil {
			return from, err
		}
	}
	return tlog.Tree{N: n, Hash: root}, nil
}
