// Package disk is a disk for tests that can lose power and fail. It keeps for each file what was written and what was synced, for
// each folder the names that were made, moved and removed and those that a sync of the folder has made durable, and promises no
// more than POSIX does: fsync of a file keeps its data, fsync of a folder keeps its names, and nothing else is kept. Two things it
// takes from file systems with a journal, of which ext4 with its defaults is one: a name that is moved is in one of the two folders,
// and a rename that replaces a file does not overtake what was written to the new one.
//
// Everything is in memory. [Disk.Mount] puts it where a real process can use it.
package disk

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
)

// Act is what is done to a disk.
type Act string

// The acts. All but Read change something, and count for CutAfter.
const (
	Read   Act = "read"
	Write  Act = "write"  // also cutting a file off
	Sync   Act = "sync"   // of a file or a folder
	Make   Act = "make"   // a file, a folder or another name
	Move   Act = "move"   // a name
	Remove Act = "remove" // a name
)

// Disk is one. Its methods may be called concurrently.
type Disk struct {
	mu      sync.Mutex
	root    *node
	inodes  uint64
	written uint64   // number of the last write
	changes []change // of names that no sync has made durable, oldest first

	fault func(Act, string) error
	acts  int           // that changed something
	left  int           // of them, until the power fails; negative: it does not
	dark  chan struct{} // closed when it has failed
}

// node is a file or a folder.
type node struct {
	gofuse.Inode
	disk     *Disk
	ino      uint64
	folder   bool
	perm     uint32
	links    uint32
	modified time.Time
	parent   *node // where its newest name is
	name     string

	data   []byte
	synced []byte  // what the last sync kept
	writes []write // since then

	names       map[string]*node
	syncedNames map[string]*node
}

// write is data that was written to a file, or its being cut off.
type write struct {
	number uint64
	at     int64 // offset, or new size
	data   []byte
	cut    bool
}

// change is of one name, or of two that change together.
type change struct {
	edits []edit
	// The writes to new that are settled before the change: it replaced a file.
	new     *node
	settled uint64
}

type edit struct {
	in   *node
	name string
	to   *node // nil: no more
}

// New is an empty disk.
func New() *Disk {
	d := &Disk{left: -1, dark: make(chan struct{})}
	d.root = d.newNode(true, 0o700)
	return d
}

func (d *Disk) newNode(folder bool, perm uint32) *node {
	d.inodes++
	n := &node{disk: d, ino: d.inodes, folder: folder, perm: perm, links: 1, modified: time.Now()}
	if folder {
		n.links, n.names, n.syncedNames = 2, map[string]*node{}, map[string]*node{}
	}
	return n
}

// Fail has acts fail with what fault answers for them and the path from the disk's root, without a slash before it; nil is well.
// It is called with the disk held.
func (d *Disk) Fail(fault func(Act, string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fault
}

// CutAfter has the power fail before the act that follows n others, and returns what is closed then. From there on everything
// fails with EIO.
func (d *Disk) CutAfter(n int) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left = n
	return d.dark
}

// Cut has the power fail now.
func (d *Disk) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut()
}

func (d *Disk) cut() {
	if !d.isDark() {
		close(d.dark)
	}
}

func (d *Disk) isDark() bool {
	select {
	case <-d.dark:
		return true
	default:
		return false
	}
}

// Acts counts those that changed something.
func (d *Disk) Acts() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.acts
}

// may tells whether an act may go on. d.mu is held.
func (d *Disk) may(a Act, n *node, name string) syscall.Errno {
	if a != Read && d.left == 0 {
		d.cut()
	}
	if d.isDark() {
		return syscall.EIO
	}
	if d.fault != nil {
		if err := d.fault(a, path.Join(n.path(), name)); err != nil {
			var no syscall.Errno
			if !errors.As(err, &no) {
				no = syscall.EIO
			}
			return no
		}
	}
	if a != Read {
		d.acts++
		if d.left > 0 {
			d.left--
		}
	}
	return 0
}

func (n *node) path() string {
	if n.parent == nil {
		return ""
	}
	return path.Join(n.parent.path(), n.name)
}

func (n *node) write(at int64, data []byte) {
	n.disk.written++
	w := write{number: n.disk.written, at: at, data: bytes.Clone(data)}
	n.data = w.on(n.data)
	n.writes = append(n.writes, w)
	n.modified = time.Now()
}

func (n *node) truncate(size int64) {
	n.disk.written++
	w := write{number: n.disk.written, at: size, cut: true}
	n.data = w.on(n.data)
	n.writes = append(n.writes, w)
	n.modified = time.Now()
}

// on is the data with the write in it.
func (w write) on(data []byte) []byte {
	if w.cut {
		return sized(data, w.at)
	}
	if end := w.at + int64(len(w.data)); end > int64(len(data)) {
		data = sized(data, end)
	}
	copy(data[w.at:], w.data)
	return data
}

func sized(data []byte, size int64) []byte {
	if n := int64(len(data)); size > n {
		return append(data, make([]byte, size-n)...)
	}
	// What lies behind must not come back when it grows again.
	clear(data[size:])
	return data[:size]
}

// change takes effect at once, and is durable when a sync says so.
func (d *Disk) change(c change) {
	for _, e := range c.edits {
		e.do(e.in.names)
		if e.to != nil {
			e.to.parent, e.to.name = e.in, e.name
		}
		e.in.modified = time.Now()
	}
	d.changes = append(d.changes, c)
}

func (e edit) do(names map[string]*node) {
	if e.to == nil {
		delete(names, e.name)
	} else {
		names[e.name] = e.to
	}
}

// sync makes durable what was written to a file, or the names in a folder.
func (n *node) sync() {
	if n.folder {
		n.disk.syncNames(n)
		return
	}
	for _, w := range n.writes {
		n.synced = w.on(n.synced)
	}
	n.writes = nil
}

// syncNames makes durable what changed in a folder, and in another where a name was moved between the two.
func (d *Disk) syncNames(folder *node) {
	var left []change
	for _, c := range d.changes {
		if !slices.ContainsFunc(c.edits, func(e edit) bool { return e.in == folder }) {
			left = append(left, c)
			continue
		}
		c.settle()
		for _, e := range c.edits {
			e.do(e.in.syncedNames)
			if e.in != folder { // what was done to that name before is past
				for i := range left {
					left[i].edits = slices.DeleteFunc(left[i].edits, func(old edit) bool { return old.in == e.in && old.name == e.name })
				}
			}
		}
	}
	d.changes = left
}

// settle makes durable what a rename that replaced a file must not overtake.
func (c change) settle() {
	if c.new == nil {
		return
	}
	n := 0
	for ; n < len(c.new.writes) && c.new.writes[n].number <= c.settled; n++ {
		c.new.synced = c.new.writes[n].on(c.new.synced)
	}
	c.new.writes = c.new.writes[n:]
}

func (n *node) child(name string) (*node, syscall.Errno) {
	if c := n.names[name]; c != nil {
		return c, 0
	}
	return nil, syscall.ENOENT
}

func (n *node) make(name string, folder bool, perm uint32) (*node, syscall.Errno) {
	if n.names[name] != nil {
		return nil, syscall.EEXIST
	}
	c := n.disk.newNode(folder, perm)
	n.disk.change(change{edits: []edit{{n, name, c}}})
	return c, 0
}

func (n *node) link(to *node, name string) syscall.Errno {
	if n.names[name] != nil {
		return syscall.EEXIST
	}
	to.links++
	n.disk.change(change{edits: []edit{{n, name, to}}})
	return 0
}

func (n *node) remove(name string, folder bool) syscall.Errno {
	c, no := n.child(name)
	switch {
	case no != 0:
		return no
	case c.folder && !folder:
		return syscall.EISDIR
	case !c.folder && folder:
		return syscall.ENOTDIR
	case len(c.names) > 0:
		return syscall.ENOTEMPTY
	}
	c.links--
	n.disk.change(change{edits: []edit{{n, name, nil}}})
	return 0
}

func (n *node) move(name string, to *node, newName string) syscall.Errno {
	c, no := n.child(name)
	if no != 0 {
		return no
	}
	done := change{edits: []edit{{n, name, nil}, {to, newName, c}}}
	if old := to.names[newName]; old == c {
		return 0
	} else if old != nil {
		if len(old.names) > 0 {
			return syscall.ENOTEMPTY
		}
		old.links--
		done.new, done.settled = c, n.disk.written
	}
	n.disk.change(done)
	return 0
}

// Lost is the disk as it is found when the power is back: what was synced, and of the rest nothing, or with chance what chance
// leaves of it: the first so many changes of names, and any of the sectors that were written.
func (d *Disk) Lost(chance *rand.Rand) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut()
	l := loss{new: New(), chance: chance, sector: 512, nodes: map[*node]*node{}, names: map[*node]map[string]*node{}}
	if chance != nil {
		if chance.IntN(2) == 0 {
			l.sector = 4096
		}
		for _, c := range d.changes[:chance.IntN(len(d.changes)+1)] {
			c.settle()
			for _, e := range c.edits {
				e.do(l.namesOf(e.in))
			}
		}
	}
	l.fill(l.new.root, d.root)
	return l.new
}

// loss is one loss of power.
type loss struct {
	new    *Disk
	chance *rand.Rand
	sector int64
	nodes  map[*node]*node            // new by old
	names  map[*node]map[string]*node // what is left of them, of old folders
}

func (l *loss) namesOf(old *node) map[string]*node {
	if l.names[old] == nil {
		l.names[old] = maps.Clone(old.syncedNames)
	}
	return l.names[old]
}

func (l *loss) fill(folder, old *node) {
	names := l.namesOf(old)
	for _, name := range slices.Sorted(maps.Keys(names)) { // in one order, so that one seed gives one disk
		was := names[name]
		n := l.nodes[was]
		if n == nil {
			n = l.new.newNode(was.folder, was.perm)
			n.modified = was.modified
			l.nodes[was] = n
			if was.folder {
				l.fill(n, was)
			} else {
				n.data = l.left(was)
				n.synced = bytes.Clone(n.data)
			}
		} else {
			n.links++
		}
		n.parent, n.name = folder, name
		folder.names[name], folder.syncedNames[name] = n, n
	}
}

// left is what is left of a file.
func (l *loss) left(was *node) []byte {
	data := bytes.Clone(was.synced)
	if l.chance == nil {
		return data
	}
	share := l.chance.IntN(3) // of its sectors: none, half, all
	for _, w := range was.writes {
		if w.cut {
			if l.chance.IntN(2) < share {
				data = w.on(data)
			}
			continue
		}
		for at := w.at; at < w.at+int64(len(w.data)); {
			next := min((at/l.sector+1)*l.sector, w.at+int64(len(w.data)))
			if l.chance.IntN(2) < share {
				data = write{at: at, data: w.data[at-w.at : next-w.at]}.on(data)
			}
			at = next
		}
	}
	return data
}

// Read is a file's content, by its path from the root: fs.ErrNotExist where there is none.
func (d *Disk) Read(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.root
	for dir, rest := "", name; rest != ""; {
		dir, rest = cutPath(rest)
		if n = n.names[dir]; n == nil {
			return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
		}
	}
	return bytes.Clone(n.data), nil
}

func cutPath(p string) (first, rest string) {
	for i := range len(p) {
		if p[i] == '/' {
			return p[:i], p[i+1:]
		}
	}
	return p, ""
}
