package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"
)

// A lab has the processes that the parts about the proxy use.
type lab struct {
	options  *options
	dir      string
	upstream *upstreamProcess
	bare     [2]*self // for the upstream's two listeners
	setups   []*setup // the one with the full store comes first
}

func newLab(ctx context.Context, o *options, dir string) (l *lab, err error) {
	l = &lab{options: o, dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	if err := createCertificate(dir); err != nil {
		return nil, err
	}
	if l.upstream, err = startUpstream(ctx, loadCPUs(), dir); err != nil {
		return nil, err
	}
	for i, target := range []string{"http://" + l.upstream.address, "https://" + l.upstream.secure} {
		if l.bare[i], err = startBare(ctx, target, dir); err != nil {
			return nil, err
		}
	}
	if err := l.prepare(ctx, fullStore); err != nil {
		return nil, err
	}
	fmt.Printf("%d connections stored in %v, %d in use\n", fullStore, l.full().filledIn.Round(100*time.Millisecond), inUse)
	return l, nil
}

// full returns the setup with the large store.
func (l *lab) full() *setup { return l.setups[0] }

// prepare adds a setup: a store with a number of connections, and a process that uses it.
func (l *lab) prepare(ctx context.Context, connections int) error {
	s := &setup{
		connections: connections, binary: l.options.binary, upstream: l.upstream, certificate: l.dir,
		dir: filepath.Join(l.dir, strconv.Itoa(connections)),
	}
	l.setups = append(l.setups, s)
	if err := s.prepare(ctx); err != nil {
		return err
	}
	return s.check(ctx, &traffic{}, s.contestants(&traffic{}))
}

// contestants returns all contestants for a kind of traffic: plain first, then the transport.
func (l *lab) contestants(t *traffic) []*contestant {
	p := l.bare[0]
	if t.secure {
		p = l.bare[1]
	}
	reference := &contestant{name: "bare", process: p.id(), address: p.addresses[0], profiles: p.addresses[1]}
	l.full().prepareRequests(t, []*contestant{reference})
	return append(l.full().contestants(t), reference)
}

// processes returns the ids of all processes of the lab that run.
func (l *lab) processes() []int {
	ids := []int{l.upstream.id(), l.bare[0].id(), l.bare[1].id()}
	for _, s := range l.setups {
		ids = append(ids, s.process.ID())
	}
	return ids
}

// close stops all processes.
func (l *lab) close() (err error) {
	for _, s := range l.setups {
		if s.process != nil {
			err = errors.Join(err, s.process.Stop())
		}
	}
	for _, p := range l.bare {
		if p != nil {
			p.stop()
		}
	}
	if l.upstream != nil {
		l.upstream.stop()
	}
	return err
}
