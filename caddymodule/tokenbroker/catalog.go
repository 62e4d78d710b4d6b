package tokenbroker

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/placeholder"
)

// builtIn is the origin of entries of the built-in catalogue.
const builtIn = "built in"

// A KnownConnector is a service in a catalogue.
type KnownConnector struct {
	connector.Definition
	From string // "built in" or the path of the connector file, and "configuration" if that changes it
}

// KnownConnectors returns the built-in catalogue, overridden by the connector files in the
// configured directories. It works without Provision.
func (a *App) KnownConnectors() (map[connector.ID]KnownConnector, error) {
	known := make(map[connector.ID]KnownConnector)
	for id, def := range connector.Catalog() {
		known[id] = KnownConnector{def, builtIn}
	}
	for _, name := range a.Catalogs {
		dir, err := placeholder.Resolve("catalog", name)
		if err != nil {
			return nil, err
		}
		defs, paths, err := connector.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("catalog: %w", err)
		}
		for id, def := range defs {
			if other := known[id].From; other != "" && other != builtIn {
				return nil, fmt.Errorf("catalog: %s: id: %s is also in %s: remove one", paths[id], id, other)
			}
			known[id] = KnownConnector{def, paths[id]}
		}
	}
	return known, nil
}

// UsableConnectors returns the connectors that are configured, with the configuration
// applied. It works without Provision.
func (a *App) UsableConnectors(known map[connector.ID]KnownConnector) (map[connector.ID]KnownConnector, error) {
	usable := make(map[connector.ID]KnownConnector, len(a.Connectors))
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
			from = k.From + ", configuration"
		}
		usable[id] = KnownConnector{def, from}
	}
	return usable, nil
}

// NearConnectors returns the known connectors with a name similar to the given one, the most
// similar first.
func NearConnectors(name string, known map[connector.ID]KnownConnector) []string {
	const most, farthest = 5, 3
	name = strings.ToLower(name)
	distances := make(map[string]int)
	for id := range known {
		full := id.String()
		d := min(distance(name, full), distance(name, id.ServiceID))
		if _, service, ok := strings.Cut(name, "/"); ok {
			// In another unified API. Only the services are compared; the shorter the name,
			// the fewer differences are tolerated.
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

// distance returns the Levenshtein distance of a and b, in bytes.
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
