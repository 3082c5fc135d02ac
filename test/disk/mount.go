package disk

import (
	"context"
	"fmt"
	"io"
	"log"
	"maps"
	"slices"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// cached is how long the kernel may go by what it knows of names and sizes: nobody else changes them.
const cached = time.Hour

// Mount puts the disk on a folder until unmount is called. It needs FUSE (/dev/fuse) and the right to mount: root, or a process
// with mounts of its own. unmount does not wait for who still has files open: what they do then fails. A disk is mounted once.
func (d *Disk) Mount(dir string) (unmount func() error, err error) {
	life := cached
	server, err := gofuse.Mount(dir, d.root, &gofuse.Options{
		EntryTimeout: &life, AttrTimeout: &life, RootStableAttr: &gofuse.StableAttr{Ino: d.root.ino},
		MountOptions: fuse.MountOptions{
			DirectMountStrict: true, FsName: "sealpost-test", Name: "sealpost-test", MaxWrite: 1 << 20, DisableXAttrs: true,
			Logger: log.New(io.Discard, "", 0),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("mounting a disk by FUSE, which takes /dev/fuse and the right to mount: %w", err)
	}
	return func() error {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			return err
		}
		server.Wait()
		return nil
	}, nil
}

// hold holds the disk.
func (n *node) hold() (release func()) {
	n.disk.mu.Lock()
	return n.disk.mu.Unlock
}

func (n *node) attributes(a *fuse.Attr) {
	a.Ino, a.Mode, a.Nlink = n.ino, n.kind()|n.perm, n.links
	a.Size = uint64(len(n.data))
	a.Blocks, a.Blksize = (a.Size+511)/512, 4096
	a.SetTimes(&n.modified, &n.modified, &n.modified)
	a.Owner = *fuse.CurrentOwner()
}

func (n *node) kind() uint32 {
	if n.folder {
		return syscall.S_IFDIR
	}
	return syscall.S_IFREG
}

// shown is the node as the kernel is to know it.
func (n *node) shown(ctx context.Context, c *node, out *fuse.EntryOut) *gofuse.Inode {
	c.attributes(&out.Attr)
	return n.NewInode(ctx, c, gofuse.StableAttr{Mode: c.kind(), Ino: c.ino})
}

func (n *node) Getattr(_ context.Context, _ gofuse.FileHandle, out *fuse.AttrOut) syscall.Errno {
	defer n.hold()()
	n.attributes(&out.Attr)
	return 0
}

func (n *node) Setattr(_ context.Context, _ gofuse.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	defer n.hold()()
	if size, ok := in.GetSize(); ok {
		if no := n.disk.may(Write, n, ""); no != 0 {
			return no
		}
		n.truncate(int64(size))
	}
	if mode, ok := in.GetMode(); ok {
		n.perm = mode & 0o7777
	}
	if at, ok := in.GetMTime(); ok {
		n.modified = at
	}
	n.attributes(&out.Attr)
	return 0
}

func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	const blocks = 64 << 30 / 4096
	*out = fuse.StatfsOut{Bsize: 4096, Frsize: 4096, Blocks: blocks, Bfree: blocks, Bavail: blocks, Files: 1 << 20, Ffree: 1 << 20, NameLen: 255}
	return 0
}

func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	defer n.hold()()
	c, no := n.child(name)
	if no != 0 {
		return nil, no
	}
	return n.shown(ctx, c, out), 0
}

func (n *node) Readdir(context.Context) (gofuse.DirStream, syscall.Errno) {
	defer n.hold()()
	if no := n.disk.may(Read, n, ""); no != 0 {
		return nil, no
	}
	var list []fuse.DirEntry
	for _, name := range slices.Sorted(maps.Keys(n.names)) {
		c := n.names[name]
		list = append(list, fuse.DirEntry{Name: name, Ino: c.ino, Mode: c.kind()})
	}
	return gofuse.NewListDirStream(list), 0
}

// handle is an open file; all its state is the node's.
type handle struct{}

func (n *node) Open(_ context.Context, flags uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
	defer n.hold()()
	if flags&syscall.O_TRUNC != 0 && len(n.data) > 0 {
		if no := n.disk.may(Write, n, ""); no != 0 {
			return nil, 0, no
		}
		n.truncate(0)
	}
	// The kernel keeps nothing of the content, so that every read is one of the disk.
	return handle{}, fuse.FOPEN_DIRECT_IO, 0
}

func (n *node) Create(ctx context.Context, name string, _, mode uint32, out *fuse.EntryOut) (*gofuse.Inode, gofuse.FileHandle, uint32, syscall.Errno) {
	i, no := n.made(ctx, name, false, mode, out)
	return i, handle{}, fuse.FOPEN_DIRECT_IO, no
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	return n.made(ctx, name, true, mode, out)
}

func (n *node) made(ctx context.Context, name string, folder bool, mode uint32, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	defer n.hold()()
	if no := n.disk.may(Make, n, name); no != 0 {
		return nil, no
	}
	c, no := n.make(name, folder, mode&0o7777)
	if no != 0 {
		return nil, no
	}
	return n.shown(ctx, c, out), 0
}

func (n *node) Link(ctx context.Context, target gofuse.InodeEmbedder, name string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	defer n.hold()()
	if no := n.disk.may(Make, n, name); no != 0 {
		return nil, no
	}
	c := target.(*node)
	if no := n.link(c, name); no != 0 {
		return nil, no
	}
	return n.shown(ctx, c, out), 0
}

func (n *node) Unlink(_ context.Context, name string) syscall.Errno { return n.removed(name, false) }

func (n *node) Rmdir(_ context.Context, name string) syscall.Errno { return n.removed(name, true) }

func (n *node) removed(name string, folder bool) syscall.Errno {
	defer n.hold()()
	if no := n.disk.may(Remove, n, name); no != 0 {
		return no
	}
	return n.remove(name, folder)
}

func (n *node) Rename(_ context.Context, name string, to gofuse.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if flags != 0 {
		return syscall.EINVAL
	}
	defer n.hold()()
	if no := n.disk.may(Move, n, name); no != 0 {
		return no
	}
	return n.move(name, to.(*node), newName)
}

func (n *node) Read(_ context.Context, _ gofuse.FileHandle, dest []byte, at int64) (fuse.ReadResult, syscall.Errno) {
	defer n.hold()()
	if no := n.disk.may(Read, n, ""); no != 0 {
		return nil, no
	}
	if at >= int64(len(n.data)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(dest[:copy(dest, n.data[at:])]), 0
}

func (n *node) Write(_ context.Context, _ gofuse.FileHandle, data []byte, at int64) (uint32, syscall.Errno) {
	defer n.hold()()
	if no := n.disk.may(Write, n, ""); no != 0 {
		return 0, no
	}
	n.write(at, data)
	return uint32(len(data)), 0
}

func (n *node) Fsync(context.Context, gofuse.FileHandle, uint32) syscall.Errno {
	defer n.hold()()
	if no := n.disk.may(Sync, n, ""); no != 0 {
		return no
	}
	n.sync()
	return 0
}

// Allocate reserves room, of which there is enough; a size beyond the present one is not set by it.
func (n *node) Allocate(_ context.Context, _ gofuse.FileHandle, _, _ uint64, mode uint32) syscall.Errno {
	const keepSize = 1 // FALLOC_FL_KEEP_SIZE
	if mode != keepSize {
		return syscall.ENOTSUP
	}
	return 0
}
