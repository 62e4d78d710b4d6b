package storeproxy

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// started runs a throttle in a bubble and records when each job is started.
type started struct {
	*throttle
	begun time.Time
	order []int
	at    []time.Duration
}

func startThrottle(t *testing.T) *started {
	s := &started{throttle: newThrottle(), begun: time.Now()}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return s
}

func (s *started) addJobs(numbers ...int) {
	for _, number := range numbers {
		s.add(func() {
			s.order = append(s.order, number)
			s.at = append(s.at, time.Since(s.begun))
		})
	}
}

func TestThrottleStartsJobsInOrderAtItsRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startThrottle(t)
		s.SetRate(10)
		time.Sleep(time.Minute) // idle time is not caught up
		s.begun = time.Now()
		s.addJobs(0, 1, 2, 3, 4)
		time.Sleep(time.Minute)
		synctest.Wait()
		if want := []int{0, 1, 2, 3, 4}; !slices.Equal(s.order, want) {
			t.Errorf("jobs were started in the order %v, want %v", s.order, want)
		}
		for i, at := range s.at {
			if want := time.Duration(i) * 100 * time.Millisecond; at != want {
				t.Errorf("job %d was started after %v, want %v", i, at, want)
			}
		}
		if got := s.LongestQueue(); got != 5 {
			t.Errorf("the longest queue = %d, want 5", got)
		}
		if got := s.LongestQueue(); got != 0 {
			t.Errorf("the longest queue since = %d, want 0", got)
		}
	})
}

func TestThrottleWithoutARateStartsJobsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startThrottle(t)
		s.addJobs(0, 1, 2)
		synctest.Wait()
		if want := []time.Duration{0, 0, 0}; !slices.Equal(s.at, want) {
			t.Errorf("jobs were started after %v, want %v", s.at, want)
		}
	})
}

func TestNewRateHoldsForTheQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startThrottle(t)
		s.SetRate(0.01)
		s.addJobs(0, 1, 2)
		time.Sleep(time.Second)
		s.SetRate(0)
		synctest.Wait()
		if want := []time.Duration{0, time.Second, time.Second}; !slices.Equal(s.at, want) {
			t.Errorf("jobs were started after %v, want %v", s.at, want)
		}
	})
}

// Timers are late on a busy machine.
func TestDelayOfTheThrottleDoesNotLowerItsRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		throttle := newThrottle()
		throttle.SetRate(10)
		var last time.Time
		for range 3 {
			throttle.add(func() {})
		}
		for i := range 3 {
			job, due := throttle.next(last)
			if want := begun.Add(time.Duration(i) * 100 * time.Millisecond); job == nil || !due.Equal(want) {
				t.Errorf("job %d: ready %t, due after %v; want true, %v", i, job != nil, due.Sub(begun), want.Sub(begun))
			}
			last = due
			time.Sleep(time.Second)
		}
		throttle.add(func() {})
		if job, due := throttle.next(last); job == nil || !due.Equal(time.Now()) {
			t.Errorf("after idle time: ready %t, due %v from now; want true, 0", job != nil, time.Until(due))
		}
	})
}
