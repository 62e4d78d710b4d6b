package apierror

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/guard"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func TestErrorsBecomeResponses(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_700_000_000_000)
	key := record.Key{Application: "a", Consumer: "c", Connector: connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}}
	tests := []struct {
		name       string
		err        error
		status     int
		typeName   string
		retryAfter string
		body       string
	}{
		{
			"parked", &record.TokenError{Key: key, Class: record.ClassPermanent, Code: "invalid_grant", Parked: true, CredentialsExpireAt: now.Add(time.Hour)},
			401, "UnauthorizedError", "", `"code":"invalid_grant","credentials_expire_at_ms":1700003600000`,
		},
		{"nothing planned", &record.TokenError{Key: key, Class: record.ClassTransient}, 503, "ServiceUnavailableError", "1", "crm/acme"},
		{
			"parked with a retry", &record.TokenError{Key: key, Parked: true, RetryAt: now.Add(30 * time.Second)},
			401, "UnauthorizedError", "", `"cooldown_remaining_ms":30000,"message":"no valid token`,
		},
		{"retried", &record.TokenError{Key: key, Class: record.ClassTransient, RetryAt: now.Add(1500 * time.Millisecond)}, 503, "ServiceUnavailableError", "2", "crm/acme"},
		{"retried at once", &record.TokenError{Key: key, Class: record.ClassTransient, RetryAt: now.Add(-time.Hour)}, 503, "ServiceUnavailableError", "1", "crm/acme"},
		{"no answer from the store", &record.TokenError{Key: key, Class: record.ClassTransient, Err: record.ErrStoreUnavailable}, 503, "ServiceUnavailableError", "1", "crm/acme"},
		{"a setting is missing", &record.TokenError{Key: key, Class: record.ClassConfiguration, BadSettings: true, Err: errors.New("x")}, 422, "InvalidStateError", "", `"detail":"x"`},
		{
			"paused", &record.TokenError{Key: key, Class: record.ClassConfiguration, Code: record.CodeConnectorPaused, Reason: "invalid_client", Detail: "number=AADSTS7000222"},
			503, "ServiceUnavailableError", "1", "(configuration: connector_paused because of invalid_client, number=AADSTS7000222); ask the operator to fix",
		},
		{
			"in doubt", &record.TokenError{Key: key, Class: record.ClassTransient, Code: record.CodeEndpointInDoubt, Reason: "http_404"},
			503, "ServiceUnavailableError", "1", "because of http_404); several connections were refused in a row",
		},
		{"refused", &record.TokenError{Key: key, Class: record.ClassRefused, Code: "invalid_request"}, 503, "ServiceUnavailableError", "1", "(refused: invalid_request); likely this grant is dead"},
		{"a wrong client", &record.TokenError{Key: key, Class: record.ClassConfiguration, Code: "invalid_client", RetryAt: now.Add(5 * time.Minute)}, 503, "ServiceUnavailableError", "300", "crm/acme, and refreshing it failed (configuration: invalid_client); ask the operator to fix"},
		{"too large", record.ErrRecordTooLarge, 413, "RequestEntityTooLargeError", "", ""},
		{"header too large", HeaderTooLarge(64), 431, "RequestHeaderFieldsTooLargeError", "", "64 bytes"},
		{"store", fmt.Errorf("x: %w", record.ErrStoreUnavailable), 503, "ServiceUnavailableError", "5", ""},
		{"standby", (&record.Record{Standby: true}).StandbyError(), 503, "StandbyError", "60", "import the connection"},
		{"standby, found out late", &record.TokenError{Parked: true, Err: fmt.Errorf("x: %w", record.ErrStandby)}, 503, "StandbyError", "60", ""},
		{"refreshing", fmt.Errorf("x: %w", record.ErrRefreshing), 503, "ServiceUnavailableError", "5", "a refresh is in progress"},
		{"shutdown", record.ErrShuttingDown, 503, "ServiceUnavailableError", "5", ""},
		{"disabled", record.ErrConnectionDisabled, 403, "ConnectorDisabledError", "", ""},
		{"host", record.ErrHostNotAllowed, 403, "ForbiddenError", "", ""},
		{"address", guard.ErrAddressNotAllowed, 403, "ForbiddenError", "", ""},
		{"anything", errors.New("canary"), 500, "InternalServerError", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := Of(tt.err, now)
			rec := httptest.NewRecorder()
			e.Write(rec)
			text := rec.Body.String()
			caddytest.WantError(t, rec.Result(), tt.status, tt.typeName)
			if got := rec.Header().Get("Retry-After"); got != tt.retryAfter {
				t.Errorf("got Retry-After %q, want %q", got, tt.retryAfter)
			}
			if !strings.Contains(text, tt.body) || strings.Contains(text, "canary") {
				t.Errorf("got %s, want it with %s", text, tt.body)
			}
			resp := e.Response(httptest.NewRequest(http.MethodGet, "/", nil))
			if got := caddytest.ReadAll(t, resp); got != text || resp.StatusCode != tt.status || resp.ContentLength != int64(len(text)) {
				t.Errorf("as a response: got status %d with %s", resp.StatusCode, got)
			}
		})
	}
}
