package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// openStreams is how many event streams are open at a time.
const openStreams = 1000

// streams opens idle event streams through each contestant, in a fresh process, and prints the
// memory for each.
func (l *lab) streams(ctx context.Context) error {
	t := &traffic{}
	fmt.Printf("\nstreams: memory of an idle event stream, in bytes (mean of %d)\n", openStreams)
	fmt.Println("                 heap     stacks   together")
	var plain float64
	for i := range l.contestants(t) {
		if err := l.restart(ctx); err != nil {
			return err
		}
		c := l.contestants(t)[i]
		heap, stacks, err := l.streamsThrough(ctx, t, c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		fmt.Printf("%-10s %10.0f %10.0f %10.0f", c.name, heap, stacks, heap+stacks)
		if i == 0 {
			plain = heap + stacks
		} else {
			fmt.Printf("   %.3f of plain", (heap+stacks)/plain)
		}
		fmt.Println()
	}
	return nil
}

// restart restarts the processes of all contestants with HTTP/1.1.
func (l *lab) restart(ctx context.Context) (err error) {
	if _, err = l.full().restart(ctx); err != nil {
		return err
	}
	l.bare[0].stop()
	l.bare[0], err = startBare(ctx, "http://"+l.upstream.address, l.dir)
	return err
}

// streamsThrough returns what a stream through a contestant takes up.
func (l *lab) streamsThrough(ctx context.Context, t *traffic, c *contestant) (heap, stacks float64, err error) {
	if _, err := c.take(ctx, l.options.clients, warmUp); err != nil {
		return 0, 0, err
	}
	before, err := c.memory(ctx)
	if err != nil {
		return 0, 0, err
	}
	streams, err := l.openStreams(ctx, t, c)
	defer func() {
		for _, stream := range streams {
			if stream != nil {
				stream.close()
			}
		}
	}()
	if err != nil {
		return 0, 0, err
	}
	after, err := c.memory(ctx)
	if err != nil {
		return 0, 0, err
	}
	deadline := time.Now().Add(50 * time.Millisecond)
	for _, stream := range streams {
		if err := stream.idle(deadline); err != nil {
			return 0, 0, err
		}
	}
	return float64(after.heap-before.heap) / openStreams, float64(after.stacks-before.stacks) / openStreams, nil
}

// openStreams opens the streams, each of another connection as long as there are enough.
func (l *lab) openStreams(ctx context.Context, t *traffic, c *contestant) (streams []*clientConn, err error) {
	s := l.full()
	streams = make([]*clientConn, openStreams)
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(16)
	for i := range streams {
		work.Go(func() (err error) {
			if streams[i], err = dial(ctx, c.address); err != nil {
				return err
			}
			connection := s.connection(i % s.inUse())
			return streams[i].open(s.head(t, c, eventsPath, connection), document(c.credential(connection)))
		})
	}
	return streams, work.Wait()
}

// open sends a request for a stream and waits for its event.
func (c *clientConn) open(head []byte, event string) error {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.conn.Write(head); err != nil {
		return err
	}
	answer, err := readHead(c.reader)
	if err != nil {
		return err
	}
	if status, _, _ := strings.Cut(string(answer), "\r\n"); !strings.HasPrefix(status, "HTTP/1.1 200 ") {
		return fmt.Errorf("a stream: %s", status)
	}
	for {
		line, err := c.reader.ReadString('\n')
		if err != nil {
			return err
		}
		if data, isEvent := strings.CutPrefix(line, "data: "); isEvent {
			if data != event+"\n" {
				return fmt.Errorf("the event is %q, want %q", data, event)
			}
			return nil
		}
	}
}

// idle checks that the stream stays open until a deadline.
func (c *clientConn) idle(deadline time.Time) error {
	if err := c.conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	for {
		_, err := c.reader.ReadByte()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("a stream ended: %w", err)
		}
	}
}
