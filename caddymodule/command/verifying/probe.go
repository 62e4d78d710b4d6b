package verifying

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/client"
)

// The outcomes of a probe besides the classes of a response's status.
const (
	probeUnknown  = "no probe_path"
	probeNoAnswer = "no answer"
)

// probeTimeout is the timeout of one request, through the broker.
const probeTimeout = 30 * time.Second

// A prober tries connections with one request each, evenly paced: all go to few services,
// from one address, at the same time as the calls of others.
type prober struct {
	client *client.Client
	pace   *time.Ticker
}

// newProber returns a prober that sends rate requests per second.
func newProber(c *client.Client, rate int) *prober {
	return &prober{client: c, pace: time.NewTicker(time.Second / time.Duration(max(rate, 1)))}
}

func (p *prober) stop() { p.pace.Stop() }

// try sends the request of a connection and notes the class of the response. Its error is
// ctx's.
func (p *prober) try(ctx context.Context, it *item, url string) error {
	if url == "" {
		it.Probe = probeUnknown
		return nil
	}
	select {
	case <-p.pace.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	trying, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := p.client.
		With("X-Apideck-Consumer-Id", it.ConsumerID).
		With("X-Apideck-Unified-Api", it.UnifiedAPI).
		With("X-Apideck-Service-Id", it.ServiceID).
		With("X-Apideck-Downstream-Url", url).
		Try(trying, http.MethodGet, "/proxy")
	refused, ok := errors.AsType[*client.Error](err)
	switch {
	case err == nil:
		it.Probe = "2xx"
	case ok:
		it.Probe, it.ProbeStatus = fmt.Sprintf("%dxx", refused.Status/100), refused.Status
	default:
		it.Probe = probeNoAnswer
	}
	return ctx.Err()
}
