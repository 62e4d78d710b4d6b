package apideck

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// readOnlyMembers are the members of the Apideck API's Connection that callers cannot change.
// They are ignored, so that a connection can be sent back as it was received: OpenAPI 3.0
// defines readOnly that way.
var readOnlyMembers = []string{
	"id", "service_id", "name", "tag_line", "unified_api", "state", "integration_state", "auth_type", "oauth_grant_type",
	"status", "website", "icon", "logo", "authorize_url", "revoke_url", "form_fields", "configurable_resources",
	"resource_schema_support", "resource_settings_support", "validation_support", "schema_support",
	"settings_required_for_authorization", "subscriptions", "has_guide", "consents", "health", "credentials_expire_at",
	"last_refresh_failed_at", "last_downstream_error_at", "created_at", "updated_at",
}

// unsupportedMembers are the members of the Apideck API's ConnectionInput that configure what
// the broker lacks: unified resources and consent.
var unsupportedMembers = []string{"configuration", "custom_mappings", "consent_state", "latest_consent", "application_data_scopes"}

// ParseUpdate parses the body of an update: strict JSON with the members of the Apideck API's
// Connection, of which enabled, settings and metadata can be changed. A null member counts as
// absent. Errors are [*record.InputError]s that name the member.
func ParseUpdate(body []byte) (*record.Update, error) {
	if err := checkText(body, "send a JSON object with enabled, settings or metadata"); err != nil {
		return nil, err
	}
	up := &record.Update{}
	err := eachMember("", body, members{
		"enabled":  into(&up.Enabled, boolMember),
		"settings": into(&up.Settings, objectMember),
		"metadata": into(&up.Metadata, objectMember),
	}, furtherMember)
	if err != nil {
		return nil, err
	}
	return up, nil
}

// furtherMember returns the function of a member of the Apideck API that cannot be changed.
func furtherMember(name string) memberFunc {
	switch {
	case name == "credentials":
		return refuseCredentials
	case slices.Contains(readOnlyMembers, name):
		return ignoreMember
	case slices.Contains(unsupportedMembers, name):
		return requireEmpty
	default:
		return nil
	}
}

func refuseCredentials(name string, _ json.RawMessage) error {
	return badBody(name, "cannot be updated", "import the connection with them")
}

// requireEmpty refuses an unsupported member with a value: to drop a withdrawn consent silently
// would be worse than an error.
func requireEmpty(name string, raw json.RawMessage) error {
	switch string(bytes.TrimSpace(raw)) {
	case `[]`, `{}`, `""`:
		return nil
	}
	return &record.InputError{
		Kind: record.InputInvalid, Field: name,
		Fault: "is not kept by the token broker, which neither maps resources nor records consent", Fix: "leave it out",
	}
}
