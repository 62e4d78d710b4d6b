package main

import (
	"fmt"
	"slices"
	"strings"
)

// partNames are the parts of a run, in the order in which they are measured.
var partNames = []string{"get", "h2", "post-64k", "post-8m", "streams", "start", "memory", "growth", "stores", "import"}

// A selection is a set of parts. It implements [flag.Value].
type selection []string

// String implements [flag.Value].
func (s *selection) String() string { return strings.Join(*s, ",") }

// Set implements [flag.Value].
func (s *selection) Set(text string) error {
	var parts selection
	for name := range strings.SplitSeq(text, ",") {
		if !slices.Contains(partNames, name) {
			return fmt.Errorf("there is no part %q", name)
		}
		parts = append(parts, name)
	}
	*s = parts
	return nil
}

// has reports whether one of the parts is selected.
func (s selection) has(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return slices.Contains(s, name) })
}
