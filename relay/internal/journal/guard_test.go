package journal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// TestGuard takes a stream away where the server does when it cannot read it, in part or whole, and lets the process die at each
// moment of keeping and of giving up what was kept: the next start has everything.
func TestGuard(t *testing.T) {
	t.Parallel()
	const stream = "SEALPOST_EVENTS_0"
	for name, died := range map[string]func(dir string, g *guard) error{
		"nothing is lost":    func(string, *guard) error { return nil },
		"the stream is gone": func(dir string, g *guard) error { return os.RemoveAll(filepath.Join(g.streams("jetstream"), stream)) },
		"a block is gone": func(dir string, g *guard) error {
			return os.Remove(filepath.Join(g.streams("jetstream"), stream, "msgs", "1.blk"))
		},
		"what it is is gone": func(dir string, g *guard) error {
			return os.Remove(filepath.Join(g.streams("jetstream"), stream, "meta.inf"))
		},
		"everything is gone": func(dir string, g *guard) error { return os.RemoveAll(filepath.Join(dir, "jetstream")) },
		"half of it was kept": func(dir string, g *guard) error {
			return os.RemoveAll(filepath.Join(g.streams(guardFolder), stream, "msgs"))
		},
		"it was given up": func(dir string, g *guard) error {
			return os.Rename(filepath.Join(dir, guardFolder), filepath.Join(dir, guardPast))
		},
		"it was given up in part": func(dir string, g *guard) error {
			return errors.Join(g.drop(), g.begin(), os.Rename(filepath.Join(dir, guardFolder), filepath.Join(dir, guardPast)), os.RemoveAll(filepath.Join(dir, guardPast, "$G", "streams", stream)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := Options{Dir: t.TempDir()}
			j := open(t, o)
			for i := range 20 {
				mustAccept(t, j, strconv.Itoa(i), "x")
			}
			shut(t, j)
			g := &guard{dir: o.Dir, fsync: (*os.File).Sync}
			if err := errors.Join(g.begin(), died(o.Dir, g)); err != nil {
				t.Fatal(err)
			}
			j = open(t, o)
			if st, err := j.Events(0).State(t.Context()); err != nil || st.First != 1 || st.Last != 20 || st.Messages != 20 {
				t.Errorf("%+v, %v", st, err)
			}
			for _, left := range []string{guardFolder, guardPast} {
				if _, err := os.Lstat(filepath.Join(o.Dir, left)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s is left: %v", left, err)
				}
			}
		})
	}
}
