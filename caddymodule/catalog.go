package caddymodule

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// builtIn is where the built-in catalogue's entries come from.
const builtIn = "built in"

// A knownConnector is a service that a catalogue knows.
type knownConnector struct {
	connector.Definition
	from string // builtIn, or the path of a connector file
}

// knownConnectors returns what the catalogues say: the built-in one, and in its place
// where they say something the files in the directories of the configuration.
func (a *App) knownConnectors() (map[connector.ID]knownConnector, error) {
	known := make(map[connector.ID]knownConnector)
	for id, def := range connector.Catalog() {
		known[id] = knownConnector{def, builtIn}
	}
	for _, name := range a.Catalogs {
		dir, err := resolve("catalog", name)
		if err != nil {
			return nil, err
		}
		defs, paths, err := connector.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("catalog: %w", err)
		}
		for id, def := range defs {
			if other := known[id].from; other != "" && other != builtIn {
				return nil, fmt.Errorf("catalog: %s: id: %s is that of %s too: remove one", paths[id], id, other)
			}
			known[id] = knownConnector{def, paths[id]}
		}
	}
	return known, nil
}

// usableConnectors returns the connectors that the configuration has a block for.
func (a *App) usableConnectors(known map[connector.ID]knownConnector) (map[connector.ID]knownConnector, error) {
	usable := make(map[connector.ID]knownConnector, len(a.Connectors))
	for _, name := range slices.Sorted(maps.Keys(a.Connectors)) {
		id, err := connector.ParseID(name)
		if err != nil {
			return nil, fmt.Errorf("connector %w", err)
		}
		block := cmp.Or(a.Connectors[name], &ConnectorConfig{})
		def, err := block.override(id, known, a.AllowPrivateHosts)
		if err != nil {
			return nil, err
		}
		from := "configuration"
		if k, ok := known[id]; ok {
			from = k.from + ", configuration"
		}
		usable[id] = knownConnector{def, from}
	}
	return usable, nil
}

// nearConnectors returns the names that are nearly the one given, the nearest first.
func nearConnectors(name string, known map[connector.ID]knownConnector) []string {
	const most, farthest = 5, 3
	name = strings.ToLower(name)
	distances := make(map[string]int)
	for id := range known {
		full := id.String()
		d := min(distance(name, full), distance(name, id.ServiceID))
		if _, service, ok := strings.Cut(name, "/"); ok {
			// Another unified API. The service alone has to be like it: of a short name little is.
			if apart := distance(service, id.ServiceID); apart <= len(service)/2 {
				d = min(d, 1+apart)
			}
		} else if name == id.UnifiedAPI || strings.Contains(id.ServiceID, name) && name != "" {
			d = min(d, 1)
		}
		if d <= min(farthest, len(name)/2) {
			distances[full] = d
		}
	}
	near := slices.SortedFunc(maps.Keys(distances), func(a, b string) int {
		return cmp.Or(cmp.Compare(distances[a], distances[b]), strings.Compare(a, b))
	})
	return near[:min(len(near), most)]
}

// distance is how many bytes have to be changed, added or removed to make a into b
// (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
