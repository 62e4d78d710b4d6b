package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
)

// answer is the upstream's response: a small JSON document, as from an API.
const answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Mon, 02 Jan 2006 15:04:05 GMT\r\nContent-Length: 28\r\n\r\n" +
	`{"id":"1","status":"active"}`

// serveUpstream runs the upstream. It parses as little as possible, to leave the machine to the
// proxy. It requires a credential in each request, and returns it to requests for /credential.
func serveUpstream() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { // end with the process that started this one
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = listener.Close()
	}()
	fmt.Println(listener.Addr())
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go serveConn(conn)
	}
}

func serveConn(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	reader := bufio.NewReaderSize(conn, 16<<10)
	for {
		head, err := readHead(reader)
		if err != nil {
			return
		}
		if _, err := io.WriteString(conn, reply(head)); err != nil {
			return
		}
	}
}

// readHead returns the start line and header of a message. The slice is valid until the next
// read. Requests here have no body.
func readHead(reader *bufio.Reader) ([]byte, error) {
	for n := 1; ; {
		if _, err := reader.Peek(n); err != nil {
			return nil, err
		}
		buffered, _ := reader.Peek(reader.Buffered())
		if end := bytes.Index(buffered, []byte("\r\n\r\n")); end >= 0 {
			_, err := reader.Discard(end + 4)
			return buffered[:end+2], err
		}
		n = len(buffered) + 1
	}
}

func reply(head []byte) string {
	_, value, found := bytes.Cut(head, []byte("\r\nAuthorization: Bearer "))
	if !found {
		return "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
	}
	if bytes.HasPrefix(head, []byte("GET /credential ")) {
		credential, _, _ := bytes.Cut(value, []byte("\r\n"))
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(credential), credential)
	}
	return answer
}

// An upstreamProcess is a process that runs the upstream.
type upstreamProcess struct {
	address string
	cmd     *exec.Cmd
	stdin   io.Closer
}

func startUpstream(ctx context.Context) (*upstreamProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	u := &upstreamProcess{cmd: exec.CommandContext(ctx, self, "-upstream")}
	if u.stdin, err = u.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := u.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	u.cmd.Stderr = os.Stderr
	if err := startOn(u.cmd, loadCPUs()); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		u.stop()
		return nil, fmt.Errorf("the upstream did not print its address: %w", err)
	}
	u.address = strings.TrimSpace(line)
	return u, nil
}

func (u *upstreamProcess) stop() {
	_ = u.stdin.Close()
	_ = u.cmd.Wait()
}
