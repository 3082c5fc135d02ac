// Package tree keeps a Merkle tree (RFC 6962) over one log of the journal, so that a record that was changed, moved, taken out or cut off
// after it was written is found, by the relay and by whoever holds the public key.
//
// Leaf n is the hash of the record at sequence n+1: the log's order is the tree's, however many processes write to it. The hashes are kept
// in a bucket, as tiles of 256 (c2sp.org/tlog-tiles), and outlive the records that retention takes. A second, small bucket has the signing
// key, sealed, and the newest checkpoint: size and root, signed. One process at a time follows the log and grows the tree (Build); the
// others read.
//
// It promises that the tree grows by durable records alone; that a checkpoint which is kept was made of tiles that are kept, whatever
// moment the process is killed in; that a hash which is handed out belongs to the checkpoint's root, for every tile is checked against it;
// and that Halted says so, from Open on, when the log is not what the last checkpoint says, or what the last one outside the data
// folder says. It cannot see what was changed before the record was in a checkpoint, some tenths of a second after it was written, nor a
// log, tree and key that were all made anew, where nothing is kept outside. It trusts the journal, as far as the checkpoints do not
// show otherwise, and whoever can append to the file outside.
//
// kill -9 between two lines: a record without a leaf gets it at the next start; tiles without their checkpoint are written again, alike,
// for they are made of the same records; a checkpoint that was not written outside is, or a later one.
package tree

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/keys"
	"github.com/sealpost/sealpost/relay/proof"
)

// Names of the buckets.
const (
	TilesBucket = "AUDIT_TILES"
	StateBucket = "AUDIT_STATE"
)

// Keys of the state.
const (
	keySigner     = "key"
	keyCheckpoint = "checkpoint"
	keyBreak      = "break"
	keyAccepted   = "accepted"
)

// Log is the log that the tree is over; a *journal.Log is one, and tells what each method promises.
type Log interface {
	State(ctx context.Context) (journal.State, error)
	Synced(ctx context.Context) (uint64, error)
	Get(ctx context.Context, seq uint64) (journal.Message, error)
	Range(ctx context.Context, first, last uint64, fn func(journal.Message) error) error
}

// Bucket is the journal's, as far as it is used here; *journal.Bucket is one.
type Bucket interface {
	Get(ctx context.Context, key string) (journal.Item, error)
	Put(ctx context.Context, key string, value []byte) (uint64, error)
	Create(ctx context.Context, key string, value []byte) (uint64, error)
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	Watch(ctx context.Context, fn func(journal.Item) error) error
}

// Sealer seals the signing key; *keys.Root is one.
type Sealer interface {
	Seal(plain []byte, at keys.Place) ([]byte, error)
	Open(sealed []byte, at keys.Place) ([]byte, error)
}

// Options are what a tree stands on; those with a default may be left out.
type Options struct {
	Log          Log
	Tiles, State Bucket
	Sealer       Sealer
	// Outside is a file, outside of the data folder, that checkpoints are appended to, or a folder for it; empty: none. PublishEvery is how
	// often at most; default 1 min.
	Outside      string
	PublishEvery time.Duration
	// Patience is for how long a log may say that it is shorter than it was: a cluster's new leader may not know everything yet. Default: none.
	Patience   time.Duration
	Clock      func() time.Time // default time.Now
	Registerer prometheus.Registerer
	Logger     *slog.Logger // default discards
	Fsync      func(*os.File) error
}

const (
	// height of a tile: 256 hashes, 8 KiB.
	height = 8
	// growBy bounds the records of one step.
	growBy = 4096
	// look is how often the log is asked for more.
	look = 200 * time.Millisecond
	// scrubEvery is how often every record is compared with its leaf.
	scrubEvery = 24 * time.Hour
)

// ErrBroken is for acts while the log is not what its checkpoints say.
var ErrBroken = errors.New("the audit log is not what its checkpoints say")

// errRaced is for a write that another process was ahead of.
var errRaced = errors.New("another process grows the tree")

// head is a checkpoint with what is known of it.
type head struct {
	proof.Checkpoint
	signed   []byte
	revision uint64
}

// tree is for the library.
func (h head) tree() tlog.Tree { return tlog.Tree{N: h.Size, Hash: h.Root} }

// Tree is a tree. Its methods may be called concurrently; Build is for one at a time.
type Tree struct {
	o       Options
	log     *slog.Logger
	key     proof.Key
	signer  note.Signer
	tiles   *tiles
	outside *outside // nil: none
	metrics *metrics
	cancel  context.CancelFunc
	done    sync.WaitGroup
	rescrub chan struct{} // asks for a scrub
	growing growing       // of publish, and of check

	checking sync.Mutex // held by check

	mu       sync.Mutex // guards what follows
	head     head
	broken   *Break // not accepted
	accepted []string
	pending  error         // why it is not known yet whether the log is whole
	grown    chan struct{} // closed when the head changes
	failing  error         // why the checkpoint could not be written outside
}

// growing is what is known of the tree's growth from one step to the next.
type growing struct {
	published  proof.Checkpoint // what was written outside last
	tried      time.Time        // when that was tried last
	shortSince time.Time        // since when the log says that it is shorter
}

// Open loads the tree, makes its key at the first time, and compares the log with the last checkpoint, and with the last one outside. What it
// finds amiss Halted tells; an error is for what keeps it from finding out.
func Open(ctx context.Context, o Options) (_ *Tree, err error) {
	if o.PublishEvery <= 0 {
		o.PublishEvery = time.Minute
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.Fsync == nil {
		o.Fsync = (*os.File).Sync
	}
	t := &Tree{o: o, log: o.Logger, tiles: newTiles(o.Tiles), grown: make(chan struct{}), rescrub: make(chan struct{}, 1)}
	t.head.Root = proof.EmptyRoot()
	if err := t.loadKey(ctx); err != nil {
		return nil, fmt.Errorf("audit tree: signing key: %w", err)
	}
	if o.Outside != "" {
		if t.outside, err = openOutside(o.Outside, o.Fsync); err != nil {
			return nil, fmt.Errorf("audit tree: checkpoints outside: %w", err)
		}
	}
	for _, key := range []string{keyAccepted, keyBreak, keyCheckpoint} {
		item, err := o.State.Get(ctx, key)
		if errors.Is(err, journal.ErrNotFound) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("audit tree: %w", err)
		}
		t.take(item)
	}
	t.metrics = newMetrics(o.Registerer, t)
	t.pending = errors.New("it is not compared with its checkpoints yet")
	if err := t.check(ctx); err != nil {
		return nil, fmt.Errorf("audit tree: %w", err)
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	t.cancel = cancel
	t.done.Go(func() { t.listen(running, o.State) })
	t.done.Go(func() { t.findOut(running) })
	return t, nil
}

// Close stops following the state. Build must have returned.
func (t *Tree) Close() {
	t.cancel()
	t.done.Wait()
}

// Key is the public key.
func (t *Tree) Key() proof.Key { return t.key }

// signingKey is the value of the state's key.
type signingKey struct {
	Public string `json:"public"`
	Sealed []byte `json:"sealed"`
}

func keyPlace() keys.Place { return keys.Place{Object: "audit", Field: "signing key"} }

// loadKey reads the signing key, or makes it.
func (t *Tree) loadKey(ctx context.Context) error {
	item, err := t.o.State.Get(ctx, keySigner)
	if errors.Is(err, journal.ErrNotFound) {
		if err := t.makeKey(ctx); err != nil && !errors.Is(err, journal.ErrRevision) {
			return err
		}
		item, err = t.o.State.Get(ctx, keySigner) // of the process that was first
	}
	if err != nil {
		return err
	}
	var stored signingKey
	if err := json.Unmarshal(item.Value, &stored); err != nil {
		return errors.New("cannot be read")
	}
	private, err := t.o.Sealer.Open(stored.Sealed, keyPlace())
	if err != nil {
		return err
	}
	if t.signer, err = note.NewSigner(string(private)); err != nil {
		return errors.New("cannot be read")
	}
	t.key, err = proof.ParseKey(stored.Public)
	if err == nil && (t.key.Name() != t.signer.Name() || !strings.HasPrefix(stored.Public, fmt.Sprintf("%s+%08x+", t.signer.Name(), t.signer.KeyHash()))) {
		err = errors.New("the public key is another's")
	}
	return err
}

func (t *Tree) makeKey(ctx context.Context) error {
	private, public, err := generateKey()
	if err != nil {
		return err
	}
	sealed, err := t.o.Sealer.Seal([]byte(private), keyPlace())
	if err != nil {
		return err
	}
	value, err := json.Marshal(signingKey{public, sealed})
	if err != nil {
		return err
	}
	_, err = t.o.State.Create(ctx, keySigner, value)
	return err
}

// take applies an item of the state.
func (t *Tree) take(item journal.Item) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch item.Key {
	case keyAccepted:
		var ids []string
		if json.Unmarshal(item.Value, &ids) == nil {
			t.accepted = ids
		}
		t.settle()
	case keyBreak:
		var b Break
		if item.Deleted || json.Unmarshal(item.Value, &b) != nil {
			return
		}
		t.broken = &b
		t.settle()
	case keyCheckpoint:
		if item.Deleted || item.Revision <= t.head.revision {
			return
		}
		c, err := proof.ParseCheckpoint(item.Value, t.key)
		if err != nil {
			// The size is not to be trusted either: it is for check to say what that means.
			t.head = head{signed: item.Value, revision: item.Revision}
			return
		}
		t.set(head{c, item.Value, item.Revision})
	}
}

// set makes a head the present one; t.mu is held.
func (t *Tree) set(h head) {
	t.head = h
	close(t.grown)
	t.grown = make(chan struct{})
}

// settle forgets a break that was accepted; t.mu is held.
func (t *Tree) settle() {
	for _, id := range t.accepted {
		if t.broken != nil && t.broken.id() == id {
			t.broken = nil
		}
	}
}

// listen follows the state, so that a process which does not grow the tree knows how far it is.
func (t *Tree) listen(ctx context.Context, state Bucket) {
	const least, most = 100 * time.Millisecond, 5 * time.Second
	for wait := least; ctx.Err() == nil; wait = min(2*wait, most) {
		err := state.Watch(ctx, func(item journal.Item) error {
			if item.Key == "" {
				wait = least
			}
			t.take(item)
			return nil
		})
		if ctx.Err() != nil {
			return
		}
		t.log.Warn("the audit log's checkpoints are not heard", "error", err, "retry_in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// findOut compares the log with its checkpoints again, until it is known whether it is whole: it may have to grow first, here or elsewhere.
func (t *Tree) findOut(ctx context.Context) {
	for t.unsure() {
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return
		}
		if err := t.check(ctx); err != nil && ctx.Err() == nil {
			t.log.Warn("the audit log could not be compared with its checkpoints", "error", err)
		}
	}
}

// now is the present head.
func (t *Tree) now() head {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.head
}

// Checkpoint is the newest, with its signed note; nil where there is none yet.
func (t *Tree) Checkpoint() (proof.Checkpoint, []byte) {
	h := t.now()
	return h.Checkpoint, h.signed
}

// Await returns the newest checkpoint once it has the record at a sequence, or when ctx ends the newest there is.
func (t *Tree) Await(ctx context.Context, seq uint64) (proof.Checkpoint, []byte) {
	for {
		t.mu.Lock()
		h, grown := t.head, t.grown
		t.mu.Unlock()
		if h.Size >= int64(seq) {
			return h.Checkpoint, h.signed
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return h.Checkpoint, h.signed
		}
	}
}

// Halted is nil, or an ErrBroken with what is amiss: then no act is to be done that rests on the log.
func (t *Tree) Halted() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.broken != nil:
		return fmt.Errorf("%w: %s", ErrBroken, t.broken.Text)
	case t.pending != nil:
		return fmt.Errorf("%w: %w", ErrBroken, t.pending)
	}
	return nil
}

// Unpublished is nil, or why the newest checkpoint could not be written outside.
func (t *Tree) Unpublished() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failing
}
