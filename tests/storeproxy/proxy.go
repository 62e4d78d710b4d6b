// Package storeproxy stands between the token broker and Vault for the programs that measure
// them. It counts requests, and can limit their rate.
package storeproxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// A Proxy stands between the broker and Vault, and lets Vault serve only so many requests
// each second, in the order of their arrival. Like a server that is overloaded, it also serves
// requests whose client has gone away in the meantime.
type Proxy struct {
	*throttle
	url    string
	server *http.Server
	target *url.URL
	client *http.Client
	stop   context.CancelFunc

	served    atomic.Int64
	abandoned atomic.Int64
}

// A passage is a request on its way through the proxy.
type passage struct {
	request *http.Request
	body    []byte
	done    chan struct{}
	answer  *http.Response // valid once done is closed; nil: Vault did not answer
	content []byte
}

// Start starts a proxy for the Vault at an http URL, without a limit.
func Start(target string) (*Proxy, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &Proxy{
		throttle: newThrottle(), url: "http://" + listener.Addr().String(), target: u, stop: stop,
		client: &http.Client{
			Transport:     &http.Transport{MaxIdleConnsPerHost: 1000, IdleConnTimeout: time.Minute},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	p.server = &http.Server{Handler: p, ReadHeaderTimeout: time.Minute}
	go p.run(ctx)
	go func() { _ = p.server.Serve(listener) }()
	return p, nil
}

// URL returns the URL of the proxy itself.
func (p *Proxy) URL() string { return p.url }

// Served returns how many requests were passed on.
func (p *Proxy) Served() int64 { return p.served.Load() }

// Abandoned returns how many of the served requests had lost their client before their turn.
func (p *Proxy) Abandoned() int64 { return p.abandoned.Load() }

// Close ends the proxy. Requests in the queue are dropped.
func (p *Proxy) Close() error {
	p.stop()
	return p.server.Close()
}

// ServeHTTP implements [http.Handler].
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The server notices that the client has gone away only once the body is read.
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s := &passage{request: r.Clone(context.WithoutCancel(r.Context())), body: body, done: make(chan struct{})}
	gone := r.Context()
	p.add(func() {
		p.served.Add(1)
		if gone.Err() != nil {
			p.abandoned.Add(1)
		}
		go p.forward(s)
	})
	select {
	case <-s.done:
	case <-gone.Done():
		return
	}
	if s.answer == nil {
		panic(http.ErrAbortHandler)
	}
	maps.Copy(w.Header(), s.answer.Header)
	w.WriteHeader(s.answer.StatusCode)
	_, _ = w.Write(s.content)
}

// forward sends a request to Vault and reads the response.
func (p *Proxy) forward(s *passage) {
	defer close(s.done)
	req := s.request
	req.RequestURI = "" // a client must not set it
	req.URL.Scheme, req.URL.Host = p.target.Scheme, p.target.Host
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(s.body)), int64(len(s.body))
	resp, err := p.client.Do(req)
	if err != nil {
		return
	}
	content, err := io.ReadAll(resp.Body)
	if errors.Join(err, resp.Body.Close()) == nil {
		s.answer, s.content = resp, content
	}
}
