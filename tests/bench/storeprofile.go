package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// profileTime is how long the profiles of an operation on a store last.
const profileTime = 8 * time.Second

// profile writes profiles of an operation: of the CPU and the allocations of the broker and the
// hop, and of Vault's CPU with each side.
func (r *vaultRun) profile(ctx context.Context, v *versus, b, hop *storeBroker) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(v.wait):
	}
	for i, s := range v.sides() {
		name := strings.NewReplacer(" ", "-", ":", "").Replace(v.name) + "-" + sideNames[i]
		var work errgroup.Group
		work.Go(func() error {
			done, err := s.work(ctx, time.Now().Add(profileTime+time.Second))
			fmt.Printf("%-40s %d operations\n", name, done)
			return err
		})
		work.Go(func() error {
			return r.options.fetchProfile(ctx, r.vault.Addr+"/v1/sys", r.vault.Token, "profile", name+"-vault")
		})
		if i != rawSide {
			profiles := fmt.Sprintf("http://127.0.0.1:%d/debug", map[int]int{brokerSide: b.ports.Admin, hopSide: hop.ports.Admin}[i])
			work.Go(func() error { return r.options.fetchProfile(ctx, profiles, "", "profile", name) })
			work.Go(func() error { return r.options.fetchProfile(ctx, profiles, "", "allocs", name+"-allocs") })
		}
		if err := work.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// fetchProfile saves a profile of the time from now on.
func (o *options) fetchProfile(ctx context.Context, base, vaultToken, kind, name string) error {
	url := fmt.Sprintf("%s/pprof/%s?seconds=%d", base, kind, int(profileTime.Seconds()))
	return save(ctx, url, vaultToken, filepath.Join(o.profile, name+".pprof"))
}
