package caddymodule

import (
	"fmt"

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
