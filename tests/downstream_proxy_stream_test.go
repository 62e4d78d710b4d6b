package tests

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Each event reaches the caller before the next one is sent.
func TestProxyPassesEventsOnAtOnce(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		const events = 101
		sent, arrived := make(chan time.Time, 1), make(chan struct{})
		service := d.withService(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			rc := http.NewResponseController(w)
			_ = rc.Flush()
			for i := range events {
				sent <- time.Now()
				fmt.Fprintf(w, "data: %d\n\n", i)
				_ = rc.Flush()
				select {
				case <-arrived:
				case <-r.Context().Done():
					return
				}
			}
		})
		p := d.start(t)
		p.importBody(t, stream, consumer, `{"settings": {"api_key": "a-key"}}`).connection(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		resp, err := stayOpen(t).Do(p.proxied(ctx, t, http.MethodGet, "", service.URL, nil))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var delays []time.Duration
		for lines := bufio.NewReader(resp.Body); len(delays) < events; {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatalf("after %d events: %v", len(delays), err)
			}
			if strings.HasPrefix(line, "data") {
				delays = append(delays, time.Since(<-sent))
				select {
				case arrived <- struct{}{}:
				case <-ctx.Done():
					t.Fatalf("no more than %d events arrived in time", len(delays))
				}
			}
		}
		slices.Sort(delays)
		t.Logf("delay of an event: median %v, maximum %v", delays[events/2], delays[events-1])
	})
}

// A body of 1 GiB passes unchanged in both directions at the same time, in constant memory.
func TestProxyPassesAGibibyteInConstantMemory(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		const size, most = 1 << 30, 64 << 20
		uploaded := make(chan [sha256.Size]byte, 1)
		service := d.withService(t, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			sum := sha256.New()
			_, _ = io.Copy(w, io.TeeReader(r.Body, sum))
			uploaded <- [sha256.Size]byte(sum.Sum(nil))
		})
		p := d.start(t)
		p.importBody(t, stream, consumer, `{"settings": {"api_key": "a-key"}}`).connection(t)
		before := p.peakMemory(t)
		source := &pattern{left: size, sum: sha256.New()}
		begun := time.Now()
		resp, err := stayOpen(t).Do(p.proxied(t.Context(), t, http.MethodPost, "", service.URL, source))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		downloaded := sha256.New()
		if n, err := io.Copy(downloaded, resp.Body); err != nil || n != size {
			t.Fatalf("got %d bytes back, want %d: %v", n, size, err)
		}
		if want := [sha256.Size]byte(source.sum.Sum(nil)); <-uploaded != want || [sha256.Size]byte(downloaded.Sum(nil)) != want {
			t.Error("the bytes differ from those that were sent")
		}
		growth := p.peakMemory(t) - before
		t.Logf("1 GiB up and down in %v; the process grew by at most %d KiB", time.Since(begun).Round(time.Millisecond), growth>>10)
		if growth > most {
			t.Errorf("the process grew by %d KiB, want at most %d", growth>>10, most>>10)
		}
	})
}

// peakMemory returns the peak memory of the process since the last call, in bytes.
func (p *process) peakMemory(t *testing.T) int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		t.Skipf("measuring memory needs /proc: %v", err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	_ = os.WriteFile(dir+"clear_refs", []byte("5"), 0)
	return kib << 10
}

// pattern is a body with a period longer than any buffer.
type pattern struct {
	left int
	sum  hash.Hash
}

// period is the repeated part of a pattern. Its length is odd, so that it is no multiple of a
// buffer's.
var period = func() []byte {
	b := make([]byte, 8<<20+1)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	return b
}()

// Read implements [io.Reader].
func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.left)], period[p.left%len(period):])
	p.sum.Write(b[:n])
	p.left -= n
	return n, nil
}

// A WebSocket works in both directions. It ends when either side, the configuration or the
// process ends.
func TestProxyCarriesAWebSocket(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		ended := make(chan struct{}, 1)
		service := d.withService(t, func(w http.ResponseWriter, r *http.Request) {
			conn, buffered, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			defer func() { _ = conn.Close(); ended <- struct{}{} }()
			fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Authorization: %s\r\n\r\n", r.Header.Get("Authorization"))
			_, _ = io.Copy(conn, buffered)
		})
		p := d.start(t)
		p.importBody(t, stream, consumer, `{"settings": {"api_key": "a-key-of-its-own"}}`).connection(t)
		open := func() (net.Conn, *bufio.Reader) {
			base, err := url.Parse(p.apiURL(""))
			if err != nil {
				t.Fatal(err)
			}
			conn, err := net.Dial("tcp", base.Host)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			_ = conn.SetDeadline(time.Now().Add(waitTimeout))
			req := p.proxied(t.Context(), t, http.MethodGet, "", service.URL, nil, "Connection", "Upgrade", "Upgrade", "websocket")
			if err := req.Write(conn); err != nil {
				t.Fatal(err)
			}
			buffered := bufio.NewReader(conn)
			resp, err := http.ReadResponse(buffered, req)
			if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || strings.Contains(fmt.Sprint(resp.Header), "a-key") {
				t.Fatalf("the response is %v, %v; want 101 without the credential", resp, err)
			}
			for i := range 3 {
				fmt.Fprintf(conn, "%d\n", i)
				if line, err := buffered.ReadString('\n'); err != nil || line != fmt.Sprintf("%d\n", i) {
					t.Fatalf("got %q, %v; want the line back", line, err)
				}
			}
			return conn, buffered
		}
		conn, _ := open()
		_ = conn.Close()
		<-ended
		conn, buffered := open()
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(buffered); err != nil || len(rest) > 0 {
			t.Errorf("got %q, %v after closing; want nothing", rest, err)
		}
		<-ended
		_, buffered = open()
		p.reload(t)
		if rest, _ := io.ReadAll(buffered); string(rest) != "\x88\x02\x03\xe9" {
			t.Errorf("got %q at the reload, want a close frame with status 1001", rest)
		}
		<-ended
		open()
		p.stop(t)
		<-ended
	})
}
