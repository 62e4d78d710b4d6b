// Package stats computes what the programs that measure the token broker print.
package stats

import "slices"

// Median returns the middle value, the mean of the two middle ones, or 0 if there are none.
func Median(values []float64) float64 {
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

// Percentile returns the smallest of the sorted values that a share p of them do not exceed, or
// the zero value if there are none.
func Percentile[T any](sorted []T, p float64) (value T) {
	if len(sorted) == 0 {
		return value
	}
	rank := int(p*float64(len(sorted))+0.9999999) - 1 // nearest rank
	return sorted[min(max(rank, 0), len(sorted)-1)]
}
