package disk

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// script does what it says, one step a word: "+a" makes a file, "+d/" a folder, "a=x" writes x at the end of a, "!a" syncs a, "! "
// nothing but the root, "a>b" moves, "a&b" links, "-a" removes.
func script(t *testing.T, d *Disk, steps string) {
	t.Helper()
	at := func(p string) (*node, string) {
		dir, name, deep := strings.Cut(strings.TrimSuffix(p, "/"), "/")
		if !deep {
			return d.root, dir
		}
		return d.root.names[dir], name
	}
	get := func(p string) *node {
		if p == "." {
			return d.root
		}
		n, name := at(p)
		return n.names[name]
	}
	for step := range strings.FieldsSeq(steps) {
		no := syscall.Errno(0)
		switch {
		case step[0] == '+':
			n, name := at(step[1:])
			_, no = n.make(name, strings.HasSuffix(step, "/"), 0o700)
		case step[0] == '!':
			get(step[1:]).sync()
		case step[0] == '-':
			n, name := at(step[1:])
			no = n.remove(name, n.names[name].folder)
		case strings.Contains(step, "="):
			p, text, _ := strings.Cut(step, "=")
			n := get(p)
			n.write(int64(len(n.data)), []byte(text))
		case strings.Contains(step, ">"):
			from, to, _ := strings.Cut(step, ">")
			n, name := at(from)
			m, newName := at(to)
			no = n.move(name, m, newName)
		case strings.Contains(step, "&"):
			from, to, _ := strings.Cut(step, "&")
			m, newName := at(to)
			no = m.link(get(from), newName)
		}
		if no != 0 {
			t.Fatalf("%s: %v", step, no)
		}
	}
}

// content is all that is on a disk: "a=x d/ d/b=y".
func content(d *Disk) string {
	var out []string
	var walk func(*node, string)
	walk = func(n *node, path string) {
		for name, c := range n.names {
			if c.folder {
				out = append(out, path+name+"/")
				walk(c, path+name+"/")
			} else {
				out = append(out, path+name+"="+string(c.data))
			}
		}
	}
	walk(d.root, "")
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestOnlyWhatWasSyncedIsLeft(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ did, left string }{
		{"+a a=x !a", ""},
		{"+a a=x !.", "a="},
		{"+a a=x !a !. a=y", "a=x"},
		{"+a a=x !. !a a=y !a", "a=xy"},
		{"+d/ +d/a d/a=x !d/a !.", "d/"},
		{"+d/ +d/a d/a=x !d/a !d", ""},
		{"+d/ +d/a d/a=x !d/a !d !.", "d/ d/a=x"},
		// A rename is durable with its folder, and until then the former names are.
		{"+a a=x !a !. a>b", "a=x"},
		{"+a a=x !a !. a>b !.", "b=x"},
		{"+a a=x !a +b b=y !b !. b>a", "a=x b=y"},
		// What replaces a file is not overtaken by its new name; what replaces nothing is.
		{"+a a=x !a !. +b b=y b>a !.", "a=y"},
		{"+b b=y b>a !.", "a="},
		// Between two folders a name is in one, whichever is synced.
		{"+d/ +e/ +d/a d/a=x !d/a !d !. d/a>e/a", "d/ d/a=x e/"},
		{"+d/ +e/ +d/a d/a=x !d/a !d !. d/a>e/a !e", "d/ e/ e/a=x"},
		{"+d/ +e/ +d/a d/a=x !d/a !d !. d/a>e/a !d", "d/ e/ e/a=x"},
		// Removed for good with the folder's sync.
		{"+a a=x !a !. -a", "a=x"},
		{"+a a=x !a !. -a !.", ""},
		{"+a a=x !a a&b !. -a !.", "b=x"},
	} {
		d := New()
		script(t, d, c.did)
		if got := content(d.Lost(nil)); got != c.left {
			t.Errorf("%s: %q is left, want %q", c.did, got, c.left)
		}
	}
}

// TestChance loses power at random: what was synced is always there, a rename is whole, and of the rest each part is there at
// times and at others not.
func TestChance(t *testing.T) {
	t.Parallel()
	seen := map[string]int{}
	for seed := range uint64(300) {
		d := New()
		script(t, d, "+a a=x !a +b b=old !b !. +c c=new c>b +z")
		n := d.root.names["a"]
		n.write(1, bytes.Repeat([]byte("y"), 2000))
		left := d.Lost(rand.New(rand.NewPCG(seed, 1)))
		a, err := left.Read("a")
		if err != nil || a[0] != 'x' || len(a) > 2001 {
			t.Fatalf("seed %d: %d bytes, %v", seed, len(a), err)
		}
		for _, sector := range [][]byte{a[1:min(len(a), 512)], a[min(len(a), 512):min(len(a), 1024)]} {
			if len(bytes.Trim(sector, "y")) != 0 && len(bytes.Trim(sector, "\x00")) != 0 {
				t.Errorf("seed %d: a sector is torn", seed)
			}
		}
		if bytes.Contains(a, []byte("\x00y")) {
			seen["a hole"]++
		}
		seen[strings.SplitN(content(left), " ", 2)[1]]++
	}
	for _, want := range []string{"a hole", "b=old", "b=old c=", "b=new", "b=new z="} {
		if seen[want] == 0 {
			t.Errorf("never %q: %v", want, seen)
		}
	}
	for got := range seen {
		if !strings.HasPrefix(got, "b=old") && !strings.HasPrefix(got, "b=new") && got != "a hole" {
			t.Errorf("left: %q", got)
		}
	}
}

func TestPowerFailsBeforeAnAct(t *testing.T) {
	t.Parallel()
	d := New()
	dark := d.CutAfter(2)
	for i := range 4 {
		no := d.may(Write, d.root, "x")
		if want := i >= 2; (no != 0) != want || d.isDark() != want {
			t.Errorf("act %d: %v, dark: %v", i, no, d.isDark())
		}
	}
	<-dark
	if no := d.may(Read, d.root, "x"); no != syscall.EIO {
		t.Errorf("reading in the dark: %v", no)
	}
	if d.Acts() != 2 {
		t.Errorf("%d acts", d.Acts())
	}
}
