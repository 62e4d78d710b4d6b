package main

import (
	"fmt"
	"slices"

	"github.com/tokenbroker/caddy-token-broker/tests/stats"
)

// each applies f to every turn.
func each(turns []*turn, f func(*turn) float64) []float64 {
	values := make([]float64, len(turns))
	for i, t := range turns {
		values[i] = f(t)
	}
	return values
}

// ratios compares neighbouring turns and returns the median of the ratios, with the
// quartiles, which say how far to trust it.
func ratios(turns, base []*turn, f func(*turn) float64) string {
	values := make([]float64, len(turns))
	for i := range turns {
		values[i] = f(turns[i]) / f(base[i])
	}
	slices.Sort(values)
	return fmt.Sprintf("%.3f (%.3f to %.3f)", stats.Median(values), stats.Percentile(values, 0.25), stats.Percentile(values, 0.75))
}
