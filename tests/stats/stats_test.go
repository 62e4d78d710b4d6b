package stats_test

import (
	"testing"

	"github.com/tokenbroker/caddy-token-broker/tests/stats"
)

func TestMedianIsTheMiddle(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := stats.Median(tt.values); got != tt.want {
			t.Errorf("Median(%v) = %v, want %v", tt.values, got, tt.want)
		}
	}
}

func TestPercentileIsTheNearestRank(t *testing.T) {
	t.Parallel()
	values := make([]int, 100)
	for i := range values {
		values[i] = i + 1
	}
	for p, want := range map[float64]int{0: 1, 0.5: 50, 0.9: 90, 0.99: 99, 1: 100} {
		if got := stats.Percentile(values, p); got != want {
			t.Errorf("Percentile(1..100, %v) = %d, want %d", p, got, want)
		}
	}
	if got := stats.Percentile([]int{7}, 0.5); got != 7 {
		t.Errorf("percentile of one value = %d, want 7", got)
	}
}
