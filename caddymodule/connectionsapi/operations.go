package connectionsapi

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
)

// list answers with the connections of a consumer. Query parameters that the Apideck API
// does not define are ignored.
func (api *Handler) list(w http.ResponseWriter, r *http.Request, c request) error {
	consumer, err := apideck.RequiredValue(r.Header, apideck.ConsumerHeader)
	if err != nil {
		return err
	}
	filter, err := listFilter(r.URL.Query())
	if err != nil {
		return err
	}
	found, err := api.broker().Connections(r.Context(), c.application, consumer, filter)
	if err != nil {
		return err
	}
	list := make([]apideck.Connection, 0, len(found))
	for _, conn := range found {
		list = append(list, apideck.NewConnection(conn))
	}
	return apideck.WriteData(w, list)
}

// listFilter parses the query of a list. An empty parameter counts as absent.
func listFilter(query url.Values) (filter broker.Filter, err error) {
	if filter.UnifiedAPI, err = onlyParameter(query, "api"); err != nil {
		return filter, err
	}
	configured, err := onlyParameter(query, "configured")
	switch configured {
	case "":
	case "true", "false":
		is := configured == "true"
		filter.Configured = &is
	default:
		err = &record.InputError{Kind: record.InputSyntax, Field: "configured", Fault: "must be true or false"}
	}
	return filter, err
}

func onlyParameter(query url.Values, name string) (string, error) {
	if len(query[name]) > 1 {
		return "", &record.InputError{Kind: record.InputSyntax, Field: name, Fault: "is sent more than once", Fix: "send the parameter once"}
	}
	return query.Get(name), nil
}

func (api *Handler) get(w http.ResponseWriter, r *http.Request, key record.Key) error {
	conn, err := api.broker().Connection(r.Context(), key)
	if err != nil {
		return err
	}
	return apideck.WriteData(w, apideck.NewConnection(conn))
}

func (api *Handler) update(w http.ResponseWriter, r *http.Request, key record.Key) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	up, err := apideck.ParseUpdate(body)
	if err != nil {
		return err
	}
	conn, err := api.broker().Update(r.Context(), key, up)
	if err != nil {
		return err
	}
	return apideck.WriteData(w, apideck.NewConnection(conn))
}

func (api *Handler) delete(w http.ResponseWriter, r *http.Request, key record.Key) error {
	if err := api.broker().Delete(r.Context(), key); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (api *Handler) importConnection(w http.ResponseWriter, r *http.Request, key record.Key) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	imp, err := apideck.ParseImport(body)
	if err != nil {
		return err
	}
	if imp.Standby, err = apideck.BoolValue(r.Header, apideck.StandbyHeader); err != nil {
		return err
	}
	conn, outcome, err := api.broker().Import(r.Context(), key, imp)
	if err != nil {
		return err
	}
	w.Header().Set(broker.ImportHeader, string(outcome))
	if warning := imp.Warning(); warning != "" {
		w.Header().Set(broker.WarningHeader, warning)
	}
	return apideck.WriteData(w, apideck.NewConnection(conn))
}

func (api *Handler) obtainToken(w http.ResponseWriter, r *http.Request, key record.Key) error {
	if err := readEmptyBody(w, r); err != nil {
		return err
	}
	conn, err := api.broker().ObtainToken(r.Context(), key)
	if err != nil {
		return err
	}
	return apideck.WriteData(w, apideck.NewConnection(conn))
}

func (api *Handler) validate(w http.ResponseWriter, r *http.Request, key record.Key) error {
	if err := readEmptyBody(w, r); err != nil {
		return err
	}
	conn, err := api.broker().Validate(r.Context(), key)
	if err != nil {
		return err
	}
	return apideck.WriteData(w, apideck.ConnectionState{ID: conn.Key.Connector.ConnectionID(), State: conn.State, Standby: conn.Standby})
}

// deleteConsumer takes the consumer from the path; the consumer header is not required.
func (api *Handler) deleteConsumer(w http.ResponseWriter, r *http.Request, c request) error {
	consumer := c.path[1]
	err := api.broker().DeleteConsumer(r.Context(), c.application, consumer)
	if err != nil {
		return err
	}
	return apideck.WriteData(w, apideck.Consumer{ConsumerID: consumer})
}

func (api *Handler) broker() *broker.Broker { return api.app.Broker() }

// readBody reads a request body, which must be small and arrive within requestTimeout.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	// Where the ResponseWriter does not support this, the server's own timeouts apply.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(requestTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, apideck.MaxBody))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, apierror.BodyTooLarge(tooLarge.Limit)
	}
	if err != nil {
		return nil, &record.InputError{Kind: record.InputSyntax, Fault: "the body could not be read in full", Fix: "send it again"}
	}
	return body, nil
}

// readEmptyBody reads the body of a request that takes no parameters.
func readEmptyBody(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	return apideck.ParseEmpty(body)
}
