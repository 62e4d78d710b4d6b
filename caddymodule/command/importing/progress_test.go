package importing

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestProgressIsOneLineOnATerminalAndLinesElsewhere(t *testing.T) {
	t.Parallel()
	for terminal, want := range map[bool]string{
		true:  "\r\x1b[K[##########          ]  50 % 100 rows, 5/s: 0 stored, 0 kept, 0 refused, 20s left",
		false: "[##########          ]  50 % 100 rows, 10/s: 0 stored, 0 kept, 0 refused, 10s left\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			in := &input{size: 1000}
			o := &Options{Err: &out}
			if terminal {
				o.Columns = func() int { return 100 }
			}
			p := newProgress(in, &ledger{}, o)
			in.read.Store(500)
			for range 100 {
				p.readRow()
			}
			time.Sleep(20*time.Second + time.Millisecond)
			p.stop()
			if !strings.Contains(out.String(), want) {
				t.Errorf("terminal %t: got %q, want %q", terminal, out.String(), want)
			}
			if lines := strings.Count(out.String(), "\n"); terminal && lines > 0 || !terminal && lines != 2 {
				t.Errorf("terminal %t: got %d lines", terminal, lines)
			}
		})
	}
}

func TestProgressIsErasedFromANarrowTerminal(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Options{
		"narrow":  {Columns: func() int { return 40 }},
		"verbose": {Columns: func() int { return 40 }, Verbose: true, Out: io.Discard},
	} {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			o.Err = &out
			p := newProgress(&input{size: 1000}, &ledger{}, &o)
			time.Sleep(11 * time.Second)
			p.stop()
			if o.Verbose { // lines about rows follow each
				if got := out.String(); strings.Contains(got, "\x1b") || !strings.HasSuffix(got, "\n") {
					t.Errorf("%s: got %q", name, got)
				}
				return
			}
			for line := range strings.SplitSeq(out.String(), "\r\x1b[K") {
				if len(line) >= 40 {
					t.Errorf("%s: %q wraps", name, line)
				}
			}
			if !strings.HasSuffix(out.String(), "\r\x1b[K") {
				t.Errorf("%s: the last line is not erased: %q", name, out.String())
			}
		})
	}
}
