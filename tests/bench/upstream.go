package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

// The paths that the upstream answers in another way than with a document.
const (
	credentialPath = "/credential" // answers with the credential of the request
	eventsPath     = "/events"     // answers with a stream that has one event and does not end
)

// document returns the body of a response: a small JSON document, as from an API, that has the
// end of the credential in it. A longer one is filled with spaces, which JSON allows.
func document(credential string) string {
	return `{"id":"` + credential[max(0, len(credential)-6):] + `","s":"active"}`
}

// serveUpstream runs the upstream: HTTP/1.1 on its first listener, HTTP/2 with TLS on the
// second. The first one parses as little as possible, to leave the machine to the proxy. Both
// require a credential in each request.
func serveUpstream(certificate string) error {
	listeners, err := listenAsSelf()
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- serveSecure(listeners[1], certificate) }()
	for {
		conn, err := listeners[0].Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case err := <-failed:
			return err
		default:
			go serveConn(conn)
		}
	}
}

func serveConn(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	reader := bufio.NewReaderSize(conn, 64<<10)
	for {
		head, err := readHead(reader)
		if err != nil {
			return
		}
		answer := reply(head)
		if _, err := reader.Discard(answer.toRead); err != nil {
			return
		}
		if _, err := io.WriteString(conn, answer.start); err != nil || answer.isLast {
			return
		}
		if err := pad(conn, answer.padding); err != nil {
			return
		}
	}
}

// readHead returns the start line and header of a message. The slice is valid until the next
// read.
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

// value returns the value of a header, which must be spelled as net/http does.
func value(head []byte, name string) (text string, found bool) {
	_, rest, found := bytes.Cut(head, []byte("\r\n"+name+": "))
	content, _, _ := bytes.Cut(rest, []byte("\r\n"))
	return string(content), found
}

// An upstreamAnswer is the response to a request.
type upstreamAnswer struct {
	toRead  int // the length of the request's body, which is read first
	start   string
	padding int  // how many spaces follow
	isLast  bool // the connection ends after it
}

// reply returns the response to a request. Its body is as long as the request's, but not
// shorter than a document.
func reply(head []byte) upstreamAnswer {
	authorization, _ := value(head, "Authorization")
	credential, found := strings.CutPrefix(authorization, "Bearer ")
	if !found {
		return refusal("400 Bad Request")
	}
	text, hasBody := value(head, "Content-Length")
	size, err := strconv.Atoi(text)
	if hasBody && err != nil || !hasBody && bytes.HasPrefix(head, []byte("POST ")) {
		return refusal("411 Length Required")
	}
	_, target, _ := bytes.Cut(head, []byte(" "))
	switch {
	case bytes.HasPrefix(target, []byte(eventsPath+" ")):
		event := "data: " + document(credential) + "\n\n"
		return upstreamAnswer{start: fmt.Sprintf(
			"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(event), event)}
	case bytes.HasPrefix(target, []byte(credentialPath+" ")):
		return withBody(credential, size)
	}
	return withBody(document(credential), size)
}

// withBody returns the response to a request with a body of a size. Its own begins with start.
func withBody(start string, size int) upstreamAnswer {
	length := max(size, len(start))
	return upstreamAnswer{toRead: size, padding: length - len(start), start: "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" +
		"Date: Mon, 02 Jan 2006 15:04:05 GMT\r\nContent-Length: " + strconv.Itoa(length) + "\r\n\r\n" + start}
}

func refusal(status string) upstreamAnswer {
	return upstreamAnswer{isLast: true, start: "HTTP/1.1 " + status + "\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"}
}

var spaces = bytes.Repeat([]byte(" "), 256<<10)

// pad writes a number of spaces.
func pad(w io.Writer, count int) error {
	for count > 0 {
		n, err := w.Write(spaces[:min(count, len(spaces))])
		if err != nil {
			return err
		}
		count -= n
	}
	return nil
}

// An upstreamProcess is a process that runs the upstream.
type upstreamProcess struct {
	*self
	address string // of HTTP/1.1
	secure  string // address of HTTP/2
}

func startUpstream(ctx context.Context, cpus []int, certificate string) (*upstreamProcess, error) {
	p, err := startSelf(ctx, cpus, roleUpstream, "-certificate", certificate)
	if err != nil {
		return nil, err
	}
	return &upstreamProcess{p, p.addresses[0], p.addresses[1]}, nil
}
