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
	dryRun, err := isDryRun(r)
	if err != nil {
		return err
	}
	importIt := api.broker().Import
	if dryRun {
		importIt = api.broker().NewDryRun().Import
	}
	done, err := importIt(r.Context(), key, imp)
	if err != nil {
		return err
	}
	w.Header().Set(broker.ImportHeader, string(done.Outcome))
	if warning := imp.Warning(); warning != "" {
		w.Header().Set(broker.WarningHeader, warning)
	}
	conn := apideck.NewConnection(done.Connection)
	if dryRun {
		return apideck.WriteDryRun(w, conn, effectOf(done))
	}
	return apideck.WriteData(w, conn)
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
	body, err := io.ReadAll(limitBody(w, r, apideck.MaxBody))
	if err != nil {
		return nil, bodyError(err)
	}
	return body, nil
}

// limitBody returns a reader of the request body, which must not be longer than most bytes and
// must arrive within requestTimeout.
func limitBody(w http.ResponseWriter, r *http.Request, most int64) io.Reader {
	// Where the ResponseWriter does not support this, the server's own timeouts apply.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(requestTimeout))
	return http.MaxBytesReader(w, r.Body, most)
}

// bodyError returns the error for a request whose body could not be read or parsed.
func bodyError(err error) error {
	if _, ok := errors.AsType[*record.InputError](err); ok {
		return err
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return apierror.BodyTooLarge(tooLarge.Limit)
	}
	return &record.InputError{Kind: record.InputSyntax, Fault: "the body could not be read in full", Fix: "send it again"}
}

// readEmptyBody reads the body of a request that takes no parameters.
func readEmptyBody(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	return apideck.ParseEmpty(body)
}
