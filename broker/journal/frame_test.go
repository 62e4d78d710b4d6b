package journal

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sealer authenticates and does not encrypt, so that fuzzing is fast and its corpus stays
// valid.
type sealer struct{}

func (sealer) sum(plain, ad []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(len(ad)))
	sum := sha256.Sum256(append(append(b, ad...), plain...))
	return sum[:16]
}

func (s sealer) Encrypt(plain, ad []byte) ([]byte, error) {
	return append(append([]byte(nil), plain...), s.sum(plain, ad)...), nil
}

func (s sealer) Decrypt(sealed, ad []byte) ([]byte, error) {
	n := len(sealed) - 16
	if n < 0 || subtle.ConstantTimeCompare(sealed[n:], s.sum(sealed[:n], ad)) != 1 {
		return nil, errors.New("not authentic")
	}
	return append([]byte(nil), sealed[:n]...), nil
}

// threeFrames returns the content of a file, and the offsets at which its frames end.
func threeFrames(tb testing.TB) (b []byte, ends []int) {
	tb.Helper()
	for i, op := range []operation{
		{kind: kindPut, id: "a", data: []byte("first")},
		{kind: kindPut, id: "b", data: []byte("second")},
		{kind: kindRemove, id: "a"},
	} {
		frame, err := encodeFrame(op, sealer{}, "name", uint64(7+i))
		if err != nil {
			tb.Fatal(err)
		}
		b = append(b, frame...)
		ends = append(ends, len(b))
	}
	return b, ends
}

func TestTornEndIsDroppedAtAnyLength(t *testing.T) {
	t.Parallel()
	whole, ends := threeFrames(t)
	for n := range len(whole) + 1 {
		frames, size := 0, 0
		for _, end := range ends {
			if end <= n {
				frames, size = frames+1, end
			}
		}
		want := []int{0, 1, 2, 1}[frames]
		for name, b := range map[string][]byte{
			"cut": whole[:n],
			// The file had its length, and not all of its blocks, before the crash.
			"zeros": append(append([]byte(nil), whole[:n]...), make([]byte, 4096)...),
		} {
			got, err := readFrames(b, sealer{}, "name")
			if err != nil || got.size != size || len(got.live) != want {
				t.Fatalf("%s at %d: size %d, %d entries, %v; want size %d, %d entries", name, n, got.size, len(got.live), err, size, want)
			}
		}
	}
}

func TestEveryChangedByteIsNoticed(t *testing.T) {
	t.Parallel()
	whole, ends := threeFrames(t)
	for i := range whole {
		b := append([]byte(nil), whole...)
		b[i] ^= 0x40
		got, err := readFrames(b, sealer{}, "name")
		before := 0
		for _, end := range ends {
			if end <= i {
				before = end
			}
		}
		if !errors.Is(err, ErrDamaged) || got.size != before {
			t.Fatalf("byte %d changed: size %d, %v; want size %d and ErrDamaged", i, got.size, err, before)
		}
	}
}

func TestFramesAreBoundToTheirPlace(t *testing.T) {
	t.Parallel()
	whole, ends := threeFrames(t)
	if _, err := readFrames(whole, sealer{}, "other"); !errors.Is(err, errUndecipherable) {
		t.Errorf("under another file name: %v, want errUndecipherable", err)
	}
	swapped := append(append([]byte(nil), whole[ends[0]:ends[1]]...), whole[:ends[0]]...)
	if _, err := readFrames(swapped, sealer{}, "name"); !errors.Is(err, ErrDamaged) {
		t.Errorf("frames in another order: %v, want ErrDamaged", err)
	}
	missing := append(append([]byte(nil), whole[:ends[0]]...), whole[ends[1]:]...)
	if _, err := readFrames(missing, sealer{}, "name"); !errors.Is(err, ErrDamaged) {
		t.Errorf("a missing frame: %v, want ErrDamaged", err)
	}
}

func TestTornEndIsTruncatedBeforeTheNextWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := open(t, dir)
	for _, id := range []string{"a", "b", "c"} {
		put(t, first, id, id)
	}
	path := first.own.path
	closeJournal(t, first)
	whole := readFile(t, path)
	if err := os.WriteFile(path, whole[:len(whole)-5], 0o600); err != nil {
		t.Fatal(err)
	}
	second := open(t, dir)
	wantEntries(t, second, map[string]string{"a": "a", "b": "b"})
	remove(t, second, "a")
	closeJournal(t, second)
	wantEntries(t, open(t, dir), map[string]string{"b": "b"})
}

func TestDamagedFileStaysAndIsNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := open(t, dir)
	put(t, first, "a", canary)
	end := first.own.size
	put(t, first, "b", canary)
	put(t, first, "c", canary)
	path := first.own.path
	closeJournal(t, first)
	damaged := readFile(t, path)
	damaged[end+40]++
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	other := open(t, dir)
	put(t, other, "d", "4")
	for range 2 {
		entries, errs := other.collect(t.Context())
		if len(errs) != 1 || !errors.Is(errs[0], ErrDamaged) || !strings.Contains(errs[0].Error(), filepath.Base(path)) ||
			strings.Contains(errs[0].Error(), canary) {
			t.Errorf("errors = %v; want ErrDamaged that names the file", errs)
		}
		var ids []string
		for _, entry := range entries {
			ids = append(ids, entry.ID)
		}
		if len(ids) != 2 || !slices.Contains(ids, "a") || !slices.Contains(ids, "d") {
			t.Errorf("entries = %v; want the one before the damage, and the process's own", ids)
		}
	}
	remove(t, other, "a")
	if got := readFile(t, path); string(got) != string(damaged) {
		t.Error("the damaged file was changed")
	}
}

func FuzzReadFrames(f *testing.F) {
	whole, ends := threeFrames(f)
	f.Add(whole, []byte{byte(kindPut), 1, 'a', 'x'})
	f.Add(whole[:ends[1]-1], []byte{byte(kindRemove), 0})
	f.Add(append(whole[:ends[0]:ends[0]], make([]byte, 64)...), []byte{byte(kindPut), 0xff, 0xff, 0x7f})
	f.Add([]byte(magic), []byte{})
	f.Fuzz(func(t *testing.T, b, plain []byte) {
		sealed, err := sealer{}.Encrypt(plain, associatedData("name", 1))
		if err != nil {
			t.Fatal(err)
		}
		// b alone, and after a valid frame with an arbitrary operation.
		for _, content := range [][]byte{b, append(frame(1, sealed), b...)} {
			got, err := readFrames(content, sealer{}, "name")
			if got.size > len(content) || err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, errUndecipherable) {
				t.Fatalf("size %d of %d, %v", got.size, len(content), err)
			}
			again, err := readFrames(content[:got.size], sealer{}, "name")
			if err != nil || again.size != got.size || fmt.Sprint(again.live) != fmt.Sprint(got.live) {
				t.Fatalf("the frames read as %v, %v the second time; want %v", again, err, got)
			}
		}
	})
}
