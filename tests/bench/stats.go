package main

import (
	"fmt"
	"slices"
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
	return fmt.Sprintf("%.3f (%.3f to %.3f)", median(values), percentile(values, 0.25), percentile(values, 0.75))
}

// median returns the middle value, the mean of the two middle ones, or 0 if there are none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// percentile returns the smallest of the sorted values that a share p of them do not exceed.
func percentile[T any](sorted []T, p float64) (value T) {
	if len(sorted) == 0 {
		return value
	}
	rank := int(p*float64(len(sorted))+0.9999999) - 1 // nearest rank
	return sorted[min(max(rank, 0), len(sorted)-1)]
}
