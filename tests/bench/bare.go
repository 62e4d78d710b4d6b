package main

import (
	"context"
	"crypto/tls"
	"io"
	"maps"
	"net/http"
	"net/url"
)

// A bare forwards requests with the least that net/http needs: it is the floor for a proxy that
// uses net/http on both sides.
type bare struct {
	target    *url.URL
	transport *http.Transport
}

func startBare(ctx context.Context, target, certificate string) (*self, error) {
	return startSelf(ctx, proxyCPUs(), roleBare, "-target", target, "-certificate", certificate)
}

func newBare(target, certificate string) (*bare, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	roots, err := certificates(certificate)
	if err != nil {
		return nil, err
	}
	return &bare{u, &http.Transport{
		MaxIdleConnsPerHost: 2 * openStreams, DisableCompression: true,
		TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true,
	}}, nil
}

// serveBare runs the reference process: the proxy on its first listener, profiles on the second.
func serveBare(target, certificate string) error {
	b, err := newBare(target, certificate)
	if err != nil {
		return err
	}
	return serveAsSelf(b)
}

// ServeHTTP implements [http.Handler].
func (b *bare) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	out := r.Clone(r.Context())
	out.RequestURI = "" // a client must not set it
	out.URL.Scheme, out.URL.Host = b.target.Scheme, b.target.Host
	out.Header.Set("Authorization", "Bearer "+accessToken(0))
	resp, err := b.transport.RoundTrip(out)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	maps.Copy(w.Header(), resp.Header)
	w.WriteHeader(resp.StatusCode)
	if resp.ContentLength < 0 {
		copyAtOnce(w, resp.Body)
		return
	}
	_, _ = io.Copy(w, resp.Body)
}

// copyAtOnce copies a stream and flushes after each read.
func copyAtOnce(w http.ResponseWriter, body io.Reader) {
	flusher := http.NewResponseController(w)
	buffer := make([]byte, 32<<10)
	for {
		n, err := body.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil || flusher.Flush() != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
