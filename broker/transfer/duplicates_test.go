package transfer

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestDuplicatesAreFoundInMemoryAndOnDisk(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1 << 20, 64, 7} {
		t.Run(strconv.Itoa(limit), func(t *testing.T) {
			t.Parallel()
			d := NewDuplicates()
			d.limit = limit
			random := rand.New(rand.NewPCG(1, uint64(limit)))
			first := make(map[string]int)
			var want, got [][2]int
			for number := 1; number <= 1000; number++ {
				row := &Row{App: "a", Import: record.Import{ConsumerID: strconv.Itoa(random.IntN(800))}}
				if before, ok := first[row.ConsumerID]; ok {
					want = append(want, [2]int{number, before})
				} else {
					first[row.ConsumerID] = number
				}
				if err := d.Add(row, number); err != nil {
					t.Fatal(err)
				}
			}
			if err := d.Each(func(row, first int) { got = append(got, [2]int{row, first}) }); err != nil {
				t.Fatal(err)
			}
			slices.SortFunc(got, func(a, b [2]int) int { return a[0] - b[0] })
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			file := d.file
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if file != nil {
				if _, err := os.Stat(file.Name()); !os.IsNotExist(err) {
					t.Errorf("the temporary file is still there: %v", err)
				}
			} else if limit < 1000 {
				t.Error("no temporary file was used")
			}
		})
	}
}
