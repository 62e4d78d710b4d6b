package apideck

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// readOnlyMembers are the members of the Vault API's Connection that a caller can send
// back as it got them: they are ignored, as OpenAPI 3.0 says of readOnly.
var readOnlyMembers = []string{
	"id", "service_id", "name", "tag_line", "unified_api", "state", "integration_state", "auth_type", "oauth_grant_type",
	"status", "website", "icon", "logo", "authorize_url", "revoke_url", "form_fields", "configurable_resources",
	"resource_schema_support", "resource_settings_support", "validation_support", "schema_support",
	"settings_required_for_authorization", "subscriptions", "has_guide", "consents", "health", "credentials_expire_at",
	"last_refresh_failed_at", "last_downstream_error_at", "created_at", "updated_at",
}

// foreignMembers are those of its ConnectionInput that belong to what the broker does not
// have: unified resources and consent. Dropping a withdrawn consent in silence would be
// worse than an error; a member that is empty says nothing, and is ignored.
var foreignMembers = []string{"configuration", "custom_mappings", "consent_state", "latest_consent", "application_data_scopes"}

// ParseUpdate reads the body of an update: strict JSON with the members of the Vault
// API's Connection, of which enabled, settings and metadata can be changed. A member that
// is null counts as not sent. Errors are [*record.InputError]s and name the member.
func ParseUpdate(body []byte) (*record.Update, error) {
	if err := checkText(body, "send a JSON object with enabled, settings or metadata"); err != nil {
		return nil, err
	}
	up := &record.Update{}
	tolerated := members{
		"credentials": func(name string, _ json.RawMessage) error {
			return badBody(name, "cannot be updated", "import the connection with them")
		},
	}
	for _, name := range readOnlyMembers {
		tolerated[name] = func(string, json.RawMessage) error { return nil }
	}
	for _, name := range foreignMembers {
		tolerated[name] = foreignMember
	}
	err := eachMember("", body, members{
		"enabled": func(name string, raw json.RawMessage) (err error) {
			up.Enabled, err = boolMember(name, raw)
			return err
		},
		"settings": func(name string, raw json.RawMessage) (err error) {
			up.Settings, err = objectMember(name, raw)
			return err
		},
		"metadata": func(name string, raw json.RawMessage) (err error) {
			up.Metadata, err = objectMember(name, raw)
			return err
		},
	}, tolerated)
	if err != nil {
		return nil, err
	}
	return up, nil
}

// ParseEmpty reads the body of a request that takes none: nothing, or an empty JSON
// object. Errors are [*record.InputError]s.
func ParseEmpty(body []byte) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	if err := checkText(body, ""); err != nil {
		return err
	}
	return eachMember("", body, nil, nil)
}

// checkText reports a body that is no JSON text at all.
func checkText(body []byte, fix string) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return badBody("", "the body is empty", fix)
	}
	if !utf8.Valid(body) {
		return badBody("", "the body is not valid UTF-8", "")
	}
	return nil
}

func boolMember(name string, raw json.RawMessage) (*bool, error) {
	var b bool
	if json.Unmarshal(raw, &b) != nil {
		return nil, badBody(name, "must be true or false", "")
	}
	return &b, nil
}

func foreignMember(name string, raw json.RawMessage) error {
	switch string(bytes.TrimSpace(raw)) {
	case `[]`, `{}`, `""`:
		return nil
	}
	return &record.InputError{
		Kind: record.InputInvalid, Field: name,
		Fault: "is not kept by the token broker, which neither maps resources nor records consent", Fix: "leave it out",
	}
}
