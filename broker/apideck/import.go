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
	imp := &record.Import{}
	if err := parseObject("", body, namedImportMembers(imp), "send a JSON object with credentials or settings"); err != nil {
		return nil, err
	}
	return imp, nil
}

// namedImportMembers are those of an import that may name the consumer.
func namedImportMembers(imp *record.Import) members {
	known := importMembers(imp)
	known["consumer_id"] = into(&imp.ConsumerID, stringMember)
	return known
}

// importMembers are the members that say what to import. They are assigned to imp.
func importMembers(imp *record.Import) members {
	return members{
		"credentials": into(&imp.Credentials, credentialsMember),
		"settings":    into(&imp.Settings, objectMember),
		"metadata":    into(&imp.Metadata, objectMember),
	}
}

// parseObject parses the body, or the value at path in it.
func parseObject(path string, raw []byte, known members, fix string) error {
	if err := checkText(path, raw, fix); err != nil {
		return err
	}
	return eachMember(path, raw, known, nil)
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
