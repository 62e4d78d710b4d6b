package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// A memory is what a Go process uses, in bytes.
type memory struct {
	heap   int64 // live objects
	stacks int64 // in use
}

// memory returns what the contestant's process uses after a collection.
func (c *contestant) memory(ctx context.Context) (m memory, err error) {
	for range 2 { // the second collection empties the pools
		body, err := fetch(ctx, "http://"+c.profiles+"/debug/pprof/heap?gc=1&debug=1", "")
		if err != nil {
			return m, err
		}
		m, err = parseMemory(body)
		if err = errors.Join(err, body.Close()); err != nil {
			return m, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return m, nil
}

// parseMemory reads a heap profile in its text format.
func parseMemory(profile io.Reader) (m memory, err error) {
	lines := bufio.NewScanner(profile)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " = ")
		switch name {
		case "# HeapAlloc":
			m.heap, err = strconv.ParseInt(value, 10, 64)
		case "# Stack":
			inUse, _, _ := strings.Cut(value, " / ")
			m.stacks, err = strconv.ParseInt(inUse, 10, 64)
		}
		if err != nil {
			return m, err
		}
	}
	if m.heap == 0 || m.stacks == 0 {
		return m, errors.Join(lines.Err(), errors.New("the heap profile does not say how much memory is in use"))
	}
	return m, nil
}

func fetch(ctx context.Context, url, vaultToken string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if vaultToken != "" {
		req.Header.Set("X-Vault-Token", vaultToken)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("%s: %s", url, resp.Status), resp.Body.Close())
	}
	return resp.Body, nil
}
