package record

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// An ImportOutcome says what an import did to the credentials.
type ImportOutcome string

// The outcomes of an import.
const (
	ImportStored ImportOutcome = "stored" // the connection now has the credentials sent
	ImportKept   ImportOutcome = "kept"   // the connection keeps the stored ones
)

// New returns the record of a connection that does not exist yet. Its generation continues a
// tombstone's, if there is one.
func New(key Key, tombstone *Record, now time.Time) *Record {
	rec := &Record{Key: key, Enabled: true, CreatedAt: now}
	if tombstone != nil {
		rec.Generation = tombstone.Generation
	}
	return rec
}

// Import applies imp to the record, which belongs to the caller.
func (r *Record) Import(conn *Connector, imp *Import, now time.Time) (ImportOutcome, error) {
	bound, patch := r.binding(conn), conn.unmask(imp.Settings)
	r.Settings = mergePatch(r.Settings, patch)
	r.Metadata = mergePatch(r.Metadata, imp.Metadata)
	r.UpdatedAt = now
	if err := r.checkSize(); err != nil {
		return "", err
	}
	if err := conn.checkFit(r.Settings); err != nil {
		return "", err
	}
	if imp.Standby != nil && *imp.Standby {
		r.EnterStandby()
	}
	outcome, err := r.importSecrets(conn, imp, now)
	if err != nil {
		return "", err
	}
	if changed, err := bound.check(conn, r, patch, imp.Credentials); err != nil {
		return "", err
	} else if changed && outcome == ImportKept {
		r.Generation++
		outcome = ImportStored
	}
	if imp.Standby != nil && !*imp.Standby {
		r.Standby = false
	}
	if conn.AuthType == connector.OAuth2 {
		r.unpark(conn.RotationFor(r.Credentials), now)
		r.queueFirstRefresh(conn, now)
	}
	return outcome, nil
}

// maxObjects bounds the settings and metadata of a connection together, encoded, in bytes.
// Merging could make them grow for ever, and stores have limits too.
const maxObjects = 256 << 10

// checkSize reports settings and metadata that exceed maxObjects.
func (r *Record) checkSize() error {
	size := 0
	for _, object := range []map[string]any{r.Settings, r.Metadata} {
		if len(object) == 0 {
			continue
		}
		encoded, err := json.Marshal(object)
		if err != nil {
			return &InputError{Kind: InputSyntax, Field: "settings or metadata", Fault: "cannot be encoded", Fix: "send plain JSON"}
		}
		size += len(encoded)
	}
	if size > maxObjects {
		return &InputError{
			Kind: InputInvalid, Field: "settings and metadata",
			Fault: fmt.Sprintf("have %d bytes together with the stored ones", size),
			Fix:   fmt.Sprintf("keep them below %d, null removes a member", maxObjects),
		}
	}
	return nil
}

// MaxToken bounds a token, in bytes. The longest in use have about ten thousand.
const MaxToken = 64 << 10

// An Import is what a caller sends to create a connection or to update it. A nil field was
// not sent, and leaves the stored value as it is.
type Import struct {
	ConsumerID  string // optional; must match the header
	Credentials *ImportCredentials
	Settings    map[string]any // JSON merge patch (RFC 7396)
	Metadata    map[string]any // JSON merge patch (RFC 7396)

	// Standby puts the connection into standby (true) or activates it (false). nil: as it is.
	Standby *bool
}

// ImportCredentials are an OAuth token that was obtained elsewhere.
type ImportCredentials struct {
	AccessToken  secret.String
	RefreshToken secret.String
	IssuedAt     time.Time      // zero: not given
	ExpiresIn    *time.Duration // nil: not given; counts from IssuedAt
	ExpiresAt    time.Time      // zero: not given; takes precedence over ExpiresIn

	RefreshExpiresIn time.Duration // the refresh token's lifetime; 0: not given; counts from IssuedAt
}

// longLifetime is the shortest expires_in that counts as milliseconds: an hour of those.
const longLifetime = 3_600_000 * time.Second

// Warning returns what is probably wrong with a valid import, empty if nothing is.
func (imp *Import) Warning() string {
	if c := imp.Credentials; c != nil && c.ExpiresIn != nil && *c.ExpiresIn >= longLifetime {
		return fmt.Sprintf("credentials.expires_in is in seconds, and %.0f are %.0f days: send 3600 for an hour, not 3600000",
			c.ExpiresIn.Seconds(), c.ExpiresIn.Hours()/24)
	}
	return ""
}

// How many hashes of past refresh tokens a record remembers.
const (
	maxImported = 64
	maxReplaced = 16
)

// importSecrets imports the connection's credentials: tokens, or settings.
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

// importIdentity imports a connection whose tokens are fetched with the credentials in the
// settings and the configuration.
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

// importSettings imports a connection whose credentials are settings.
func (r *Record) importSettings(conn *Connector, imp *Import) (ImportOutcome, error) {
	if imp.Credentials != nil && !imp.Credentials.empty() {
		return "", &InputError{
			Kind: InputInvalid, Field: "credentials",
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
		// Nothing to protect: store the tokens sent.
	case sent.empty():
		return ImportKept, nil
	case sent.sameGrant(stored):
		if !sent.supersedes(stored, issuedAt, r.Standby) || r.Lease != nil {
			return ImportKept, nil
		}
		stored.AccessToken, stored.Redeemed = sent.AccessToken, false
		stored.setTimes(sent, issuedAt)
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
	r.Credentials = &Credentials{AccessToken: sent.AccessToken, RefreshToken: sent.RefreshToken, FromImport: true}
	r.Credentials.setTimes(sent, issuedAt)
	r.Generation++
	r.Cycle = Cycle{}
	r.Lease = nil // it was for the old refresh token, whose outcome no longer matters
	return ImportStored, nil
}

// setTimes records when the tokens sent were issued and when they expire.
func (c *Credentials) setTimes(sent *ImportCredentials, issuedAt time.Time) {
	c.IssuedAt, c.Expiry = issuedAt, sent.expiry(issuedAt)
	switch {
	case sent.AccessToken.IsZero():
		c.Expiry = time.Time{} // it would be that of a token that is missing
	case !issuedAt.IsZero() && c.Expiry.After(issuedAt):
		c.Lifetime = c.Expiry.Sub(issuedAt)
	case sent.ExpiresAt.IsZero() && sent.ExpiresIn != nil:
		c.Lifetime = *sent.ExpiresIn
	}
	if sent.RefreshExpiresIn > 0 && !issuedAt.IsZero() {
		c.RefreshExpiry = issuedAt.Add(sent.RefreshExpiresIn)
	}
}

// empty reports whether no token was sent.
func (c *ImportCredentials) empty() bool {
	return c.AccessToken.IsZero() && c.RefreshToken.IsZero()
}

// sameGrant reports whether the tokens sent belong to the stored refresh token. If no refresh
// token is sent they count as belonging to it. If none is stored, access tokens are compared.
func (c *ImportCredentials) sameGrant(stored *Credentials) bool {
	if stored.RefreshToken.IsZero() {
		return c.RefreshToken.IsZero() && c.AccessToken.Equal(stored.AccessToken)
	}
	return c.RefreshToken.IsZero() || c.RefreshToken.Equal(stored.RefreshToken)
}

// expiry returns when the access token expires, zero if that is unknown: expires_in alone does
// not say from when it counts.
func (c *ImportCredentials) expiry(issuedAt time.Time) time.Time {
	if !c.ExpiresAt.IsZero() {
		return c.ExpiresAt
	}
	if c.ExpiresIn == nil || issuedAt.IsZero() {
		return time.Time{}
	}
	return issuedAt.Add(*c.ExpiresIn)
}

// needsFirstRefresh reports whether a refresh must follow an import: there is no access token,
// it has expired or its expiry is unknown, or the last refresh failed for good.
func (r *Record) needsFirstRefresh(now time.Time) bool {
	c := r.Credentials
	switch {
	case c == nil:
		return false
	case c.AccessToken.IsZero(), c.ExpiredAt(now), r.Cycle.Phase == PhaseFailed:
		return true
	default:
		return !c.Redeemed && c.Expiry.IsZero()
	}
}

// unpark allows one attempt to redeem a refresh token that was refused before. If the token
// may be spent, so that the attempt could cost the grant, the attempt waits until the access
// token expires.
func (r *Record) unpark(rotation connector.Rotation, now time.Time) {
	r.Cycle.Parked, r.Cycle.TokenRejected = "", false
	r.Cycle.NeedsAuth = false // one more refusal is evidence enough
	r.Cycle.stopWaiting()
	r.Cycle.CredentialsExpireAt = time.Time{}
	if c := r.Credentials; r.Cycle.Class == ClassAmbiguous && rotation.Kind == connector.RotationAlways && c != nil && c.Expiry.After(now) {
		r.Cycle.waitUntil(now, c.validFor(now))
		r.Cycle.RejectedWait = minBackoff
	}
}

// remembers reports whether token is known to be older than the stored one.
func (r *Record) remembers(token secret.String) bool {
	if token.IsZero() {
		return false
	}
	hash := token.Hash()
	return slices.Contains(r.Imported, hash) || slices.Contains(r.Replaced, hash)
}

// rememberImported notes that an imported refresh token was replaced.
func (r *Record) rememberImported(token secret.String) {
	r.Imported = appendHash(r.Imported, token, maxImported)
}

// rememberReplaced notes that a refresh token was replaced by a refresh.
func (r *Record) rememberReplaced(token secret.String) {
	r.Replaced = appendHash(r.Replaced, token, maxReplaced)
}

// appendHash appends token's hash, without duplicates, and keeps the last most of them.
func appendHash(hashes []secret.Hash, token secret.String, most int) []secret.Hash {
	if token.IsZero() {
		return hashes
	}
	hash := token.Hash()
	hashes = append(slices.DeleteFunc(slices.Clone(hashes), func(h secret.Hash) bool { return h == hash }), hash)
	return hashes[max(0, len(hashes)-most):]
}
