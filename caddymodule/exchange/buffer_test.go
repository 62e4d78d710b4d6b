package exchange

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

// A sluggish reader returns at most as many bytes as it is told, in turn.
type sluggish struct {
	io.Reader
	most  []int
	given []int // the sizes of the buffers
}

func (s *sluggish) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.given = append(s.given, len(p))
	most := s.most[0]
	s.most = append(s.most[1:], most)
	return s.Reader.Read(p[:min(most, len(p))])
}

func TestBuffersGrowWithWhatComes(t *testing.T) {
	t.Parallel()
	content := make([]byte, 300<<10)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(content)
	for name, tt := range map[string]struct {
		length int64
		most   []int
		want   []int // the first sizes of the buffers
	}{
		"a stream of events":            {-1, []int{100, 1, 4095}, []int{smallBuffer, smallBuffer, smallBuffer, smallBuffer}},
		"much, then little, then much":  {-1, []int{largeBuffer, largeBuffer, 10, largeBuffer}, []int{smallBuffer, largeBuffer, largeBuffer, smallBuffer, largeBuffer}},
		"a body that is known as small": {smallBuffer, []int{1, 10}, []int{smallBuffer, smallBuffer, smallBuffer}},
		"a body that is known as large": {300 << 10, []int{1, largeBuffer, 10}, []int{largeBuffer, largeBuffer, largeBuffer}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from := &sluggish{Reader: bytes.NewReader(content), most: tt.most}
			var got bytes.Buffer
			if err := Copy(from, tt.length, func(piece []byte) error { got.Write(piece); return nil }); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(got.Bytes(), content) {
				t.Errorf("the %d bytes differ from the body", got.Len())
			}
			for i, want := range tt.want {
				if from.given[i] != want {
					t.Errorf("the sizes of the buffers are %v, want %v", from.given[:len(tt.want)], tt.want)
					break
				}
			}
		})
	}
}

// A waitError fails at its end while it is read without a buffer.
type waitError struct {
	*strings.Reader
	err error
}

func (w waitError) Read(p []byte) (int, error) {
	if len(p) > 0 {
		return w.Reader.Read(p)
	}
	if w.Len() > 0 {
		return 0, nil
	}
	return 0, w.err
}

func TestCopyEndsWithTheFirstError(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	var got bytes.Buffer
	write := func(piece []byte) error { got.Write(piece); return nil }
	for name, tt := range map[string]struct {
		from  io.Reader
		write func([]byte) error
		want  error
	}{
		"the end":                 {strings.NewReader("abc"), write, nil},
		"the end, with the bytes": {&sluggish{Reader: iotest.DataErrReader(strings.NewReader("abc")), most: []int{3}}, write, nil},
		"reading fails":           {io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(broken)), write, broken},
		"the body was cut off":    {io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(io.ErrUnexpectedEOF)), write, io.ErrUnexpectedEOF},
		"the wait fails":          {waitError{strings.NewReader("abc"), broken}, write, broken},
		"the wait ends":           {waitError{strings.NewReader("abc"), io.EOF}, write, nil},
		"writing fails":           {strings.NewReader("abc"), func(p []byte) error { _ = write(p); return broken }, broken},
		"writing fails with EOF":  {strings.NewReader("abc"), func(p []byte) error { _ = write(p); return io.EOF }, io.EOF},
	} {
		got.Reset()
		if err := Copy(tt.from, -1, tt.write); !errors.Is(err, tt.want) || got.String() != "abc" {
			t.Errorf("%s: got %q, %v, want %v", name, got.String(), err, tt.want)
		}
	}
}
