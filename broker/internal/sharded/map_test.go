package sharded_test

import (
	"strconv"
	"sync"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/sharded"
)

func TestKeyHasOneValue(t *testing.T) {
	t.Parallel()
	m := sharded.New[string, int](func(key string) string { return key })
	key := "ann"
	first, second := 1, 2
	if got := m.Load(&key); got != nil {
		t.Errorf("an empty map has %d", *got)
	}
	if m.LoadOrStore(&key, &first) != &first || m.LoadOrStore(&key, &second) != &first || m.Load(&key) != &first {
		t.Error("the second value has replaced the first")
	}
	if m.Remove(&key, &second); m.Load(&key) != &first {
		t.Error("removing another value has removed the first")
	}
	if m.Remove(&key, &first); m.Load(&key) != nil {
		t.Error("the value was not removed")
	}
}

func TestEachVisitsAllValuesAndMayChangeTheMap(t *testing.T) {
	t.Parallel()
	m := sharded.New[string, int](func(key string) string { return key })
	var stores sync.WaitGroup
	const values = 1000
	for i := range values {
		stores.Go(func() {
			key := strconv.Itoa(i)
			m.LoadOrStore(&key, &i)
		})
	}
	stores.Wait()
	seen := make(map[int]bool)
	m.Each(func(v *int) {
		seen[*v] = true
		key := strconv.Itoa(*v)
		m.Remove(&key, v)
	})
	if len(seen) != values {
		t.Errorf("%d values, want %d", len(seen), values)
	}
	m.Each(func(v *int) { t.Errorf("%d is left", *v) })
}
