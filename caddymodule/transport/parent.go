package transport

import (
	"log/slog"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// A parent is what a transport has to know of its reverse_proxy.
type parent struct {
	setsHeaders     bool // it may set headers that are otherwise the caller's
	callerNamesHost bool // it may set Host to something of the request
	leavesUnread    bool // it may leave response bodies open
	repeats         bool // it may send a request again after a response
	logsHeaders     bool // it logs the header of a request that has its response
}

// warnOfUpstreams warns of upstreams that the connector does not allow, since every request
// to them would be refused. It skips upstreams and connectors with placeholders.
func (t *Transport) warnOfUpstreams(ctx caddy.Context) {
	proxy := parentProxy(ctx)
	if proxy == nil || !t.connector.isStatic {
		return
	}
	id, _ := connector.ParseID(t.Connector) // checkNames has parsed it
	config := t.app.Config()                // not that of the broker, which still has the old one
	scheme := "http"
	if t.TLS != nil {
		scheme = "https"
	}
	for _, upstream := range proxy.Upstreams {
		if upstream == nil || strings.Contains(upstream.Dial, "{") {
			continue
		}
		target, err := connector.ParseTarget(scheme+"://"+upstream.Dial, "", "")
		if err != nil || !config.MayAllow(config.Connectors[id], target) {
			t.logger.LogAttrs(ctx, slog.LevelWarn,
				"the connector does not allow this upstream, so every request will be refused; correct it, or add it to the connector's allow_host",
				slog.String("connector", id.String()), slog.String("upstream", scheme+"://"+upstream.Dial))
		}
	}
}

// parentProxy returns the reverse_proxy that the transport being provisioned belongs to, nil
// if its parent is something else.
func parentProxy(ctx caddy.Context) *reverseproxy.Handler {
	lineage := ctx.Modules() // ends with the transport
	if len(lineage) < 2 {
		return nil
	}
	proxy, _ := lineage[len(lineage)-2].(*reverseproxy.Handler)
	return proxy
}

// mayLeaveUnread reports whether the parent reverse_proxy has handle_response routes. If one
// of them panics, which is how Caddy aborts a response, reverse_proxy never closes the body
// of downstream's response.
func mayLeaveUnread(ctx caddy.Context) bool {
	proxy := parentProxy(ctx)
	return proxy == nil || len(proxy.HandleResponse) > 0
}

// mayRepeat reports whether the parent reverse_proxy has a lb_retry_match, which can ask for
// another attempt after a response.
func mayRepeat(ctx caddy.Context) bool {
	proxy := parentProxy(ctx)
	return proxy == nil || proxy.LoadBalancing != nil && len(proxy.LoadBalancing.RetryMatch)+len(proxy.LoadBalancing.RetryMatchRaw) > 0
}
