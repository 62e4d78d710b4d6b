package caddymodule

import (
	"fmt"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// builtIn is the origin of the built-in catalogue's entries.
const builtIn = "built in"

// A knownConnector is a service that a catalogue knows.
type knownConnector struct {
	connector.Definition
	from string // builtIn, or the path of a connector file
}

// knownConnectors returns the entries of the catalogues. The files in the directories of the
// configuration take precedence over the built-in catalogue.
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
				return nil, fmt.Errorf("catalog: %s: id: %s is also in %s: remove one", paths[id], id, other)
			}
			known[id] = knownConnector{def, paths[id]}
		}
	}
	return known, nil
}
