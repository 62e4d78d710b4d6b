package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/transfer/transfertest"
)

// maxImportMemory is the most resident memory that the command may have, in MiB, however many
// rows the file has.
const maxImportMemory = 64

// importCommand is `load import`: generated rows through `token-broker import`, to a broker that
// stores nothing.
func importCommand(ctx context.Context, arguments []string) error {
	var o options
	flags := flag.NewFlagSet("import", flag.ContinueOnError)
	o.register(flags)
	rows := flags.Int("rows", 10_000_000, "rows of the file")
	format := flags.String("format", "canonical", "format of the rows")
	if err := o.parse(flags, arguments); err != nil {
		return err
	}
	return o.inDir(func(dir string) error { return importRows(ctx, o.binary, dir, *format, *rows) })
}

func importRows(ctx context.Context, binary, dir, format string, rows int) error {
	server := httptest.NewServer(http.HandlerFunc(acceptBatch))
	defer server.Close()
	g := transfertest.New(format, 1)
	convert := g.Options()
	arguments := []string{"import", "--to", server.URL, "--app", "my-app", "--format", format, "--results", filepath.Join(dir, "refused")}
	for value, id := range convert.Connectors {
		arguments = append(arguments, "--connector", value+"="+id.String())
	}
	cmd := exec.CommandContext(ctx, binary, append(arguments, "-")...)
	cmd.Env = append(os.Environ(), "TOKEN_BROKER_API_KEY=a-key", "NANGO_ENCRYPTION_KEY="+convert.EncryptionKey.Reveal())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = g.Reader(rows), os.Stdout, os.Stderr
	begun := time.Now()
	_ = cmd.Run() // refused rows make it fail
	took := time.Since(begun)
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok || ctx.Err() != nil {
		return fmt.Errorf("the command has ended without a measurement: %v, %w", cmd.ProcessState, ctx.Err())
	}
	fmt.Printf("\n%d rows in %s: %.0f rows/s; processor time of the command %s\n", rows, took.Round(time.Millisecond),
		float64(rows)/took.Seconds(), (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Round(time.Millisecond))
	var v verdict
	memory := usage.Maxrss >> 10 // from KiB
	v.require(memory < maxImportMemory, "memory of the command: at most %d MiB, bound %d MiB", memory, maxImportMemory)
	return v.err()
}

// acceptBatch answers that each row of a batch is stored.
func acceptBatch(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	answer := []byte(`{"data":[`)
	for i := range bytes.Count(body, []byte(`"consumer_id":`)) {
		if i > 0 {
			answer = append(answer, ',')
		}
		answer = fmt.Appendf(answer, `{"row":%d,"status_code":200,"result":"created","refresh":"none"}`, i)
	}
	_, _ = w.Write(append(answer, "]}"...))
}
