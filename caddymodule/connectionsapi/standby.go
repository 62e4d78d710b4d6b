package connectionsapi

import (
	"bytes"
	"context"
	"net/http"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
)

// enterStandby puts connections of the application into standby. It needs no consumer header.
func (api *Handler) enterStandby(w http.ResponseWriter, r *http.Request, c request) error {
	return api.switchConnections(w, r, c, (*broker.Broker).EnterStandby)
}

// activate ends the standby of connections of the application.
func (api *Handler) activate(w http.ResponseWriter, r *http.Request, c request) error {
	return api.switchConnections(w, r, c, (*broker.Broker).Activate)
}

func (api *Handler) switchConnections(w http.ResponseWriter, r *http.Request, c request,
	set func(*broker.Broker, context.Context, string, broker.Selection) (*broker.Switched, error),
) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	sent, err := apideck.ParseSelection(bytes.TrimSpace(body))
	if err != nil {
		return err
	}
	sel := broker.Selection{
		Connector: connector.ID{UnifiedAPI: sent.UnifiedAPI, ServiceID: sent.ServiceID},
		Consumer:  sent.ConsumerID, After: sent.After, Limit: sent.Limit,
	}
	done, err := set(api.broker(), r.Context(), c.application, sel)
	if err != nil {
		return err
	}
	data := apideck.Switched{Changed: done.Changed, Unchanged: done.Unchanged, Failed: make([]apideck.SwitchFailure, 0, len(done.Failed))}
	for _, f := range done.Failed {
		e := apierror.Of(f.Err, time.Now())
		e.Log(r.Context(), api.logger)
		data.Failed = append(data.Failed, apideck.SwitchFailure{
			ConsumerID: f.Key.Consumer, UnifiedAPI: f.Key.Connector.UnifiedAPI, ServiceID: f.Key.Connector.ServiceID, Error: e,
		})
	}
	return apideck.WritePage(w, data, done.Next)
}
