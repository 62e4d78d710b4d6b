package connector

import (
	"embed"
	"fmt"
	"maps"
	"sync"
)

// catalogFiles has one entry per file, see [ParseFile]. The facts of an entry come from its
// source; "checked" says what was read there, and what was not found and is assumed.
//
//go:embed catalog/*.json
var catalogFiles embed.FS

// Catalog returns all entries of the catalogue. The caller owns them.
func Catalog() map[ID]Definition {
	c := maps.Clone(catalog())
	for id, d := range c {
		c[id] = d.Clone()
	}
	return c
}

// catalog panics if an entry cannot be read; a test reads them all.
var catalog = sync.OnceValue(func() map[ID]Definition {
	files, err := catalogFiles.ReadDir("catalog")
	if err != nil {
		panic(err)
	}
	c := make(map[ID]Definition, len(files))
	for _, f := range files {
		b, err := catalogFiles.ReadFile("catalog/" + f.Name())
		if err != nil {
			panic(err)
		}
		d, err := ParseFile(b)
		if err != nil {
			panic(fmt.Errorf("catalog/%s: %w", f.Name(), err))
		}
		c[d.ID] = d
	}
	return c
})
