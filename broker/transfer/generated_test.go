package transfer_test

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
	"github.com/tokenbroker/caddy-token-broker/broker/transfer/transfertest"
)

// TestEachKindOfBadRowIsFound makes files of every format, and expects of each row what its
// kind says.
func TestEachKindOfBadRowIsFound(t *testing.T) {
	t.Parallel()
	for _, format := range transfer.Formats() {
		t.Run(format.Name, func(t *testing.T) {
			t.Parallel()
			g := transfertest.New(format.Name, 1)
			g.BadShare = 0.5
			expected := transfertest.New(format.Name, 1) // the same rows
			expected.BadShare, expected.Expires = g.BadShare, g.Expires
			convert, err := transfer.NewConverter(g.Options())
			if err != nil {
				t.Fatal(err)
			}
			const rows = 400
			source, err := transfer.NewSource(g.Reader(rows))
			if err != nil {
				t.Fatal(err)
			}
			if header := source.Header(); header != nil {
				if err := convert.CheckHeader(header); err != nil {
					t.Fatal(err)
				}
			}
			check := transfer.Check{MinLifetime: transfertest.MinLifetime}
			duplicates := transfer.NewDuplicates()
			defer duplicates.Close()
			kinds := make(map[int]transfertest.Kind)
			seen := make(map[transfertest.Kind]bool)
			for number := 1; number <= rows; number++ {
				_, kinds[number] = expected.Next()
				seen[kinds[number]] = true
				refused, doubts, res := look(t, source, convert, &check)
				if want := kinds[number].Refused(format.Name); refused != want {
					t.Errorf("row %d is %s: got %q, want %q", number, kinds[number], refused, want)
				}
				if want := kinds[number].Doubt(); want != "" && want != transfer.ReasonDuplicate && (len(doubts) != 1 || doubts[0] != want) {
					t.Errorf("row %d is %s: got %v, want %q", number, kinds[number], doubts, want)
				} else if want == "" && len(doubts) > 0 && kinds[number].IsStored() {
					t.Errorf("row %d is %s: got %v", number, kinds[number], doubts)
				}
				if res != nil {
					if err := duplicates.Add(res.Row, number); err != nil {
						t.Fatal(err)
					}
				}
			}
			if _, err := source.Read(); !errors.Is(err, io.EOF) {
				t.Errorf("got %v after the last row", err)
			}
			if len(seen) != len(transfertest.Kinds())+1 {
				t.Errorf("only %d kinds were seen", len(seen))
			}
			found := make(map[int]bool)
			if err := duplicates.Each(func(row, _ int) { found[row] = true }); err != nil {
				t.Fatal(err)
			}
			for number, kind := range kinds {
				if found[number] != (kind == transfertest.Duplicate) {
					t.Errorf("row %d is %s, and found as a duplicate: %t", number, kind, found[number])
				}
			}
		})
	}
}

// look returns what the next row is refused for, what is doubtful about it, and what it becomes.
func look(t *testing.T, source *transfer.Source, convert *transfer.Converter, check *transfer.Check) (transfer.Reason, []transfer.Reason, *transfer.Result) {
	t.Helper()
	rec, err := source.Read()
	var res *transfer.Result
	if err == nil {
		res, err = convert.Convert(rec)
	}
	if p, ok := errors.AsType[*transfer.RowError](err); ok {
		return p.Reason, nil, nil
	}
	if err != nil {
		t.Fatal(err)
	}
	if p := check.Refuse(res, time.Now()); p != nil {
		return p.Reason, nil, nil
	}
	var doubts []transfer.Reason
	for _, p := range check.Doubts(res) {
		doubts = append(doubts, p.Reason)
	}
	return "", doubts, res
}
