package broker

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// How many hashes of past refresh tokens a record remembers.
const (
	maxImported = 64
	maxReplaced = 16
)

// importSecrets takes what the connector has for credentials.
func (r *Record) importSecrets(conn *Connector, imp *Import, now time.Time) (ImportOutcome, error) {
	switch {
	case conn.AuthType != connector.OAuth2:
		return r.importSettings(conn, imp)
	case conn.FetchesTokens() && (imp.Credentials == nil || imp.Credentials.empty()):
		return r.importIdentity(conn)
	case conn.FetchesTokens():
		if err := conn.requireSettings(r.Settings); err != nil {
			return "", err
		}
	}
	return r.importCredentials(conn, imp.Credentials, now)
}

// importIdentity is the import of a connection whose tokens are fetched: what it takes
// to fetch them is in the settings and in the configuration.
func (r *Record) importIdentity(conn *Connector) (ImportOutcome, error) {
	if err := conn.requireSettings(r.Settings); err != nil {
		return "", err
	}
	if r.Generation > 0 {
		return ImportKept, nil
	}
	r.Generation++
	return ImportStored, nil
}

// importSettings is the import of a connection whose credentials are settings.
func (r *Record) importSettings(conn *Connector, imp *Import) (ImportOutcome, error) {
	if imp.Credentials != nil && !imp.Credentials.empty() {
		return "", &InputError{
			Kind: Contradiction, Field: "credentials",
			Fault: fmt.Sprintf("are OAuth tokens, but %s has auth_type %s", conn.ID, conn.AuthType),
			Fix:   "send its credentials in settings",
		}
	}
	if err := conn.requireSettings(r.Settings); err != nil {
		return "", err
	}
	if len(imp.Settings) == 0 {
		return ImportKept, nil
	}
	r.Generation++
	return ImportStored, nil
}

// importCredentials decides whether the tokens sent replace those stored.
func (r *Record) importCredentials(conn *Connector, sent *ImportCredentials, now time.Time) (ImportOutcome, error) {
	if sent == nil {
		sent = &ImportCredentials{}
	}
	issuedAt := sent.IssuedAt
	if issuedAt.After(now) {
		issuedAt = now
	}
	stored := r.Credentials
	switch {
	case stored == nil:
		// Nothing to protect: what is sent is stored.
	case sent.empty():
		return ImportKept, nil
	case sent.sameGrant(stored):
		if sent.AccessToken.IsZero() || !issuedAt.After(stored.IssuedAt) || r.Lease != nil {
			return ImportKept, nil
		}
		stored.AccessToken, stored.Redeemed = sent.AccessToken, false
		stored.IssuedAt, stored.Expiry = issuedAt, sent.expiry(issuedAt)
		r.Generation++
		return ImportStored, nil
	case r.remembers(sent.RefreshToken):
		return ImportKept, nil
	case !issuedAt.IsZero() && issuedAt.Before(stored.IssuedAt) && !r.IsParked():
		return ImportKept, nil
	}
	if err := conn.requireTokens(sent); err != nil {
		return "", err
	}
	if stored != nil && stored.FromImport {
		r.rememberImported(stored.RefreshToken)
	}
	r.Credentials = &Credentials{
		AccessToken: sent.AccessToken, RefreshToken: sent.RefreshToken,
		IssuedAt: issuedAt, Expiry: sent.expiry(issuedAt), FromImport: true,
	}
	r.Generation++
	r.Cycle = Cycle{}
	r.Lease = nil // it was for the other refresh token, of which nothing is to be recorded any more
	return ImportStored, nil
}

func (c *ImportCredentials) empty() bool {
	return c.AccessToken.IsZero() && c.RefreshToken.IsZero()
}

// sameGrant reports whether the tokens sent come with the refresh token that is
// stored; one that is not sent is taken to be that. Where there is no refresh token
// at all, the access token tells.
func (c *ImportCredentials) sameGrant(stored *Credentials) bool {
	if stored.RefreshToken.IsZero() {
		return c.RefreshToken.IsZero() && c.AccessToken.Equal(stored.AccessToken)
	}
	return c.RefreshToken.IsZero() || c.RefreshToken.Equal(stored.RefreshToken)
}

// expiry returns when the access token expires, zero if that was not said:
// expires_in alone means nothing as long as it is not known since when.
func (c *ImportCredentials) expiry(issuedAt time.Time) time.Time {
	if !c.ExpiresAt.IsZero() {
		return c.ExpiresAt
	}
	if c.ExpiresIn == nil || issuedAt.IsZero() {
		return time.Time{}
	}
	return issuedAt.Add(*c.ExpiresIn)
}

// requireTokens reports which token is missing from an import.
func (c *Connector) requireTokens(sent *ImportCredentials) error {
	if sent.AccessToken.IsZero() {
		return &InputError{
			Kind: Contradiction, Field: "credentials.access_token",
			Fix: fmt.Sprintf("%s uses OAuth: send the access token", c.ID),
		}
	}
	if sent.RefreshToken.IsZero() && !c.RefreshTokenOptional && !c.FetchesTokens() {
		return &InputError{
			Kind: Contradiction, Field: "credentials.refresh_token",
			Fix: fmt.Sprintf("send it, or configure %s with `refresh_token optional` if its tokens come without one", c.ID),
		}
	}
	return nil
}

// requireSettings reports settings that are missing where they are the credentials, or
// what it takes to get them.
func (c *Connector) requireSettings(settings map[string]any) error {
	missing := c.MissingSettings(settings)
	if len(missing) == 0 {
		return nil
	}
	return &InputError{
		Kind: Contradiction, Field: "settings." + missing[0],
		Fix: fmt.Sprintf("%s needs the settings %s", c.ID, strings.Join(missing, ", ")),
	}
}

// needsFirstRefresh reports whether an import is to be followed by a refresh: the
// token is expired or it is not known when it does, or the last one failed for good.
func (r *Record) needsFirstRefresh(now time.Time) bool {
	c := r.Credentials
	switch {
	case c == nil:
		return false
	case c.ExpiredAt(now), r.Cycle.Phase == PhaseFailed:
		return true
	default:
		return !c.Redeemed && (c.IssuedAt.IsZero() || c.Expiry.IsZero())
	}
}

// unpark allows one attempt to redeem a refresh token that was refused before. One
// that may be spent, and then costs the grant, waits until the access token expires.
func (r *Record) unpark(rotation connector.Rotation, now time.Time) {
	r.Cycle.Parked = ""
	r.Cycle.RetryAt = time.Time{}
	r.Cycle.CredentialsExpireAt = time.Time{}
	if c := r.Credentials; r.Cycle.Class == ClassAmbiguous && rotation.Kind == connector.RotationAlways && c != nil && c.Expiry.After(now) {
		r.Cycle.RetryAt = c.Expiry
	}
}

// remembers reports whether token is known to be older than the stored one.
func (r *Record) remembers(token Secret) bool {
	if token.IsZero() {
		return false
	}
	hash := token.Hash()
	return slices.Contains(r.Imported, hash) || slices.Contains(r.Replaced, hash)
}

func (r *Record) rememberImported(token Secret) {
	r.Imported = appendHash(r.Imported, token, maxImported)
}

func (r *Record) rememberReplaced(token Secret) {
	r.Replaced = appendHash(r.Replaced, token, maxReplaced)
}

// appendHash adds token's hash as the latest and keeps at most most.
func appendHash(hashes []TokenHash, token Secret, most int) []TokenHash {
	if token.IsZero() {
		return hashes
	}
	hash := token.Hash()
	hashes = append(slices.DeleteFunc(slices.Clone(hashes), func(h TokenHash) bool { return h == hash }), hash)
	return hashes[max(0, len(hashes)-most):]
}
