package importing

import (
	"bytes"
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
			p := newProgress(in, &ledger{}, &Options{Err: &out, Terminal: terminal})
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
