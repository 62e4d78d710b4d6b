package exchange

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
)

func TestBodyIsKeptAsItCame(t *testing.T) {
	t.Parallel()
	source := rand.NewChaCha8([32]byte{1})
	random := rand.New(source)
	for _, tt := range []struct{ length, most int }{
		{0, 1},
		{10, 1},
		{30, 7},
		{pieceSize - 1, 1000},
		{pieceSize, pieceSize},
		{pieceSize + 1, 2 * pieceSize},
		{2*pieceSize + 1, 1000},
		{maxReplayBody, 3 * pieceSize},
		{maxReplayBody, maxReplayBody},
	} {
		content := make([]byte, tt.length)
		_, _ = source.Read(content)
		for range 3 { // the second time with pieces that others have used
			var k kept
			for left := content; len(left) > 0; {
				n := min(random.IntN(tt.most)+1, len(left))
				k.add(left[:n])
				left = left[n:]
			}
			var read []byte
			for to := make([]byte, tt.most); len(read) < k.length; {
				n := k.copyTo(to[:random.IntN(tt.most)+1], len(read))
				read = append(read, to[:n]...)
			}
			if !bytes.Equal(read, content) {
				t.Errorf("%+v: %d bytes were read that differ from what was added", tt, len(read))
			}
			if k.discard(); k != (kept{}) {
				t.Errorf("%+v: something is left", tt)
			}
		}
	}
}

// Others may use the pieces only once this body cannot be sent again.
func TestPiecesAreHeldUntilTheBodyIsDone(t *testing.T) {
	t.Parallel()
	text := bytes.Repeat([]byte("a"), 2*pieceSize)
	req, body, _ := record(t, bytes.NewReader(text), int64(len(text)))
	for range 2 {
		if got, err := io.ReadAll(req.Body); !bytes.Equal(got, text) || err != nil {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
		_ = req.Body.Close()
		if isWhole, err := body.repeat(req); err != nil || !isWhole {
			t.Fatal(isWhole, err)
		}
	}
	body.end()
	if got, err := io.ReadAll(req.Body); !bytes.Equal(got, text) || err != nil {
		t.Errorf("after the exchange the last attempt got %d bytes, %v", len(got), err)
	}
	if _ = req.Body.Close(); body.sent.length > 0 {
		t.Error("the pieces are still held")
	}
}
