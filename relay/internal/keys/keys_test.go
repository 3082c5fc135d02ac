package keys

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func testRoot(t testing.TB, fill byte) *Root {
	t.Helper()
	root, err := NewRoot(bytes.Repeat([]byte{fill}, Size))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestSealOpensOnlyAtItsPlace(t *testing.T) {
	t.Parallel()
	root, other := testRoot(t, 1), testRoot(t, 2)
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a-z]{0,6}`)
		at := Place{text.Draw(t, "tenant"), text.Draw(t, "object"), text.Draw(t, "field")}
		plain := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "plain")
		sealed, err := root.Seal(plain, at)
		if err != nil {
			t.Fatal(err)
		}
		got, err := root.Open(sealed, at)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("open: %q, %v", got, err)
		}
		if elsewhere := (Place{text.Draw(t, "tenant2"), text.Draw(t, "object2"), text.Draw(t, "field2")}); elsewhere != at {
			if _, err := root.Open(sealed, elsewhere); !errors.Is(err, ErrSealed) {
				t.Fatalf("opened at %+v what was sealed at %+v: %v", elsewhere, at, err)
			}
		}
		if _, err := other.Open(sealed, at); !errors.Is(err, ErrOtherKey) {
			t.Fatalf("another root: %v", err)
		}
		i := rapid.IntRange(0, len(sealed)-1).Draw(t, "byte")
		sealed[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := root.Open(sealed, at); err == nil {
			t.Fatalf("opened with byte %d changed", i)
		}
	})
}

func TestPlacesDoNotRunTogether(t *testing.T) {
	t.Parallel()
	root := testRoot(t, 1)
	sealed, err := root.Seal([]byte("x"), Place{"ab", "c", ""})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := root.Open(sealed, Place{"a", "bc", ""}); !errors.Is(err, ErrSealed) {
		t.Fatalf("got %v", err)
	}
}

func TestSealBound(t *testing.T) {
	t.Parallel()
	root := testRoot(t, 1)
	if _, err := root.Seal(make([]byte, MaxPlain+1), Place{}); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("got %v", err)
	}
	if _, err := root.Seal(make([]byte, MaxPlain), Place{}); err != nil {
		t.Fatal(err)
	}
}

func TestPseudonymKeys(t *testing.T) {
	t.Parallel()
	root := testRoot(t, 1)
	a, b := root.Pseudonym("acme"), root.Pseudonym("globex")
	if len(a) != Size || bytes.Equal(a, b) || !bytes.Equal(a, root.Pseudonym("acme")) || bytes.Equal(a, testRoot(t, 2).Pseudonym("acme")) {
		t.Fatal("pseudonym keys must be stable and differ by tenant and root")
	}
}

func TestDigest(t *testing.T) {
	t.Parallel()
	root := testRoot(t, 1)
	a := root.Digest("p", []byte("x"))
	if !bytes.Equal(a, root.Digest("p", []byte("x"))) || bytes.Equal(a, root.Digest("q", []byte("x"))) || bytes.Equal(a, root.Digest("p", []byte("y"))) ||
		bytes.Equal(a, testRoot(t, 2).Digest("p", []byte("x"))) {
		t.Fatal("a digest must tell purpose, data and root")
	}
}

func TestRootDoesNotPrint(t *testing.T) {
	t.Parallel()
	secret := []byte("0123456789-recognisable-root-key")
	root, err := NewRoot(secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(format, root); strings.Contains(s, "recognisable") {
			t.Errorf("%s shows the key: %s", format, s)
		}
	}
}

func TestOpenFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), FileName)
	first, made, err := OpenFile(path)
	if err != nil || !made {
		t.Fatalf("first: made %v, %v", made, err)
	}
	sealed, err := first.Seal([]byte("s"), Place{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	again, made, err := OpenFile(path)
	if err != nil || made {
		t.Fatalf("again: made %v, %v", made, err)
	}
	if _, err := again.Open(sealed, Place{Tenant: "acme"}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() != Size {
		t.Fatalf("file: %v, %v", info, err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Fatalf("left beside the file: %v, %v", left, err)
	}
}

func TestUnfitFiles(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		make func(path string) error
	}{
		{"readable by others", func(p string) error {
			return errors.Join(os.WriteFile(p, make([]byte, Size), 0o600), os.Chmod(p, 0o604))
		}},
		{"writable by group", func(p string) error {
			return errors.Join(os.WriteFile(p, make([]byte, Size), 0o600), os.Chmod(p, 0o620))
		}},
		{"short", func(p string) error { return os.WriteFile(p, make([]byte, Size-1), 0o600) }},
		{"long", func(p string) error { return os.WriteFile(p, make([]byte, Size+1), 0o600) }},
		{"empty", func(p string) error { return os.WriteFile(p, nil, 0o600) }},
		{"folder", func(p string) error { return os.Mkdir(p, 0o700) }},
		{"link", func(p string) error {
			return errors.Join(os.WriteFile(p+".target", make([]byte, Size), 0o600), os.Symlink(p+".target", p))
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), FileName)
			if err := c.make(path); err != nil {
				t.Fatal(err)
			}
			if _, _, err := OpenFile(path); !errors.Is(err, ErrFile) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func TestWriteNewNeverReplaces(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	if err := WriteNew(path, []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := WriteNew(path, []byte("two")); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("got %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "one" {
		t.Fatalf("%q, %v", got, err)
	}
}

// sealedOnce was sealed by a root of 32 sevens; that it opens also shows that the format and the derivation stay.
const sealedOnce = "535053015caaae6e27d574008929f8138cdc82c9347e6300e361db7be9c7c20300d8794d1242fcd5275cbe877f93"

func FuzzOpen(f *testing.F) {
	root := testRoot(f, 7)
	at := Place{"acme", "ep_1", "bearer"}
	good, err := hex.DecodeString(sealedOnce)
	if err != nil {
		f.Fatal(err)
	}
	if plain, err := root.Open(good, at); err != nil || string(plain) != "secret" {
		f.Fatalf("what was sealed before does not open: %v", err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte(magic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, sealed []byte) {
		_, err := root.Open(sealed, at)
		if err != nil && !errors.Is(err, ErrSealed) && !errors.Is(err, ErrOtherKey) {
			t.Fatalf("unknown error: %v", err)
		}
		// Nobody without the key can make another that opens.
		if err == nil && !bytes.Equal(sealed, good) {
			t.Fatalf("opened a value that was not sealed: %x", sealed)
		}
	})
}
