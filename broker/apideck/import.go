package apideck

import (
	"encoding/json"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// ParseImport parses the body of an import: strict JSON with exactly the members of the Apideck
// API's ConnectionImportData, plus consumer_id and credentials.expires_at. The credentials can
// be an unchanged token response, which has members of its own. A null member counts as absent.
// Errors are [*record.InputError]s that name the member.
func ParseImport(body []byte) (*record.Import, error) {
	if err := checkText(body, "send a JSON object with credentials or settings"); err != nil {
		return nil, err
	}
	imp := &record.Import{}
	err := eachMember("", body, members{
		"consumer_id": into(&imp.ConsumerID, stringMember),
		"credentials": into(&imp.Credentials, credentialsMember),
		"settings":    into(&imp.Settings, objectMember),
		"metadata":    into(&imp.Metadata, objectMember),
	}, nil)
	if err != nil {
		return nil, err
	}
	return imp, nil
}

func credentialsMember(name string, raw json.RawMessage) (*record.ImportCredentials, error) {
	c := &record.ImportCredentials{}
	isResponse := isTokenResponse(raw)
	dateTime := func(name string, raw json.RawMessage) (time.Time, error) {
		return timeMember(name, asDateTime(raw, isResponse))
	}
	seconds := func(name string, raw json.RawMessage) (*time.Duration, error) {
		return secondsMember(name, asSeconds(raw, isResponse))
	}
	err := eachMember(name, raw, members{
		"access_token":  into(&c.AccessToken, tokenMember),
		"refresh_token": into(&c.RefreshToken, tokenMember),
		"issued_at":     into(&c.IssuedAt, dateTime),
		"expires_at":    into(&c.ExpiresAt, dateTime),
		"expires_in":    into(&c.ExpiresIn, seconds),
	}, responseMembers(isResponse, c))
	if err != nil {
		return nil, err
	}
	return c, nil
}
