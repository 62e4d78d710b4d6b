package connectionsapi

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
)

// maxBatches is how many batches are in progress at a time. Each may take a hundred MiB of memory.
const maxBatches = 16

// inTurn returns an operation on a batch that is refused if maxBatches are in progress.
func inTurn(do operation) operation {
	return func(api *Handler, w http.ResponseWriter, r *http.Request, c request) error {
		if api.batches.Add(1) > maxBatches {
			api.batches.Add(-1)
			return fmt.Errorf("%w: there are %d batches; try again when some have ended", record.ErrTooManyRequests, maxBatches)
		}
		defer api.batches.Add(-1)
		return do(api, w, r, c)
	}
}

// importBatch imports many connections of the application. It answers with a result for each
// row, whatever happened to the others.
func (api *Handler) importBatch(w http.ResponseWriter, r *http.Request, c request) error {
	dryRun, err := isDryRun(r)
	if err != nil {
		return err
	}
	standby, err := apideck.BoolValue(r.Header, apideck.StandbyHeader)
	if err != nil {
		return err
	}
	rows, err := apideck.ParseImports(limitBody(w, r, apideck.MaxBatchBody), c.application)
	if err != nil {
		return bodyError(err)
	}
	for _, row := range rows {
		if row.Err == nil {
			row.Import.Standby = standby
		}
	}
	results := make([]apideck.ImportedRow, len(rows))
	errs := api.newRowErrors(r)
	for n, done := range api.broker().ImportAll(r.Context(), rows, dryRun) {
		result := &results[n]
		result.Row, result.StatusCode = n, http.StatusOK
		if done.Err != nil {
			e := errs.of(n, done.Err, rows[n].Err == nil)
			result.StatusCode, result.Error = e.Status, e
			continue
		}
		effect := effectOf(done.Imported)
		result.ImportEffect, result.Warning = &effect, rows[n].Import.Warning()
	}
	return apideck.WriteData(w, results)
}

func effectOf(done *broker.Imported) apideck.ImportEffect {
	return apideck.NewImportEffect(done.Outcome, done.Created, done.RefreshQueued)
}

// isDryRun reports whether an import must not store anything.
func isDryRun(r *http.Request) (bool, error) {
	dryRun, err := apideck.BoolValue(r.Header, apideck.DryRunHeader)
	return dryRun != nil && *dryRun, err
}

// verifyBatch compares the tokens of the application's connections with hashes of those that
// the caller has.
func (api *Handler) verifyBatch(w http.ResponseWriter, r *http.Request, c request) error {
	rows, key, err := apideck.ParseVerification(limitBody(w, r, apideck.MaxBatchBody), c.application)
	if err != nil {
		return bodyError(err)
	}
	results := make([]apideck.VerifiedRow, len(rows))
	errs := api.newRowErrors(r)
	for n, found := range api.broker().VerifyAll(r.Context(), rows, key) {
		result := &results[n]
		result.Row, result.StatusCode, result.Result = n, http.StatusOK, found.Verdict
		if found.Err != nil {
			e := errs.of(n, found.Err, true)
			result.StatusCode, result.Error = e.Status, e
		}
		if conn := found.Connection; conn != nil {
			result.State, result.Health, result.Standby, result.ProbeURL = conn.State, conn.Health, conn.Standby, conn.Connector.ProbeURL()
		}
	}
	return apideck.WriteData(w, results)
}

// rowErrors turns the errors of rows into those that callers see.
type rowErrors struct {
	api    *Handler
	r      *http.Request
	now    time.Time
	logged bool // one cause: a store that is unavailable fails every row
}

func (api *Handler) newRowErrors(r *http.Request) *rowErrors {
	return &rowErrors{api: api, r: r, now: time.Now()}
}

// of returns the error of row n. Unless it names the row itself, the member that it names
// gets the row's path.
func (e *rowErrors) of(n int, err error, addPath bool) *apierror.Error {
	shown := apierror.Of(err, e.now)
	if input, ok := errors.AsType[*record.InputError](err); ok && addPath {
		inRow := *input
		inRow.Field = apideck.RowPath(n) + "." + input.Field
		shown = apierror.Of(&inRow, e.now)
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		shown = apierror.BodyTooLarge(tooLarge.Limit)
		shown.Message = "The row is too large"
	}
	if !e.logged {
		e.logged = shown.Log(e.r.Context(), e.api.logger)
	}
	return shown
}
