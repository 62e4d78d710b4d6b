package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// How many hashes of past refresh tokens a record remembers.
const (
	maxImported = 64
	maxReplaced = 16
)

// longLifetime is what an expires_in is worth a warning for: a year or more is
// mostly milliseconds sent as seconds.
const longLifetime = 365 * 24 * time.Hour

// An ImportOutcome says what an import did to the credentials.
type ImportOutcome string

// The outcomes of an import.
const (
	ImportStored ImportOutcome = "stored" // the credentials sent are the connection's now
	ImportKept   ImportOutcome = "kept"   // the connection has kept those that it had
)

// Import creates the connection of key or updates it, and queues a background
// refresh if the token needs one; it does not wait for that.
//
// Running an import again never breaks a connection: credentials that are known to
// be older than the stored ones leave those as they are.
//
// Errors: [*InputError], [ErrConnectorNotFound], [ErrStoreUnavailable]. After the
// first two nothing was stored; after the last it may have been.
func (b *Broker) Import(ctx context.Context, key Key, imp *Import) (_ *Connection, outcome ImportOutcome, err error) {
	ctx, span := b.tracing.start(ctx, "token_broker.import", trace.WithAttributes(connectorAttribute(key)))
	defer func() {
		span.SetAttributes(attribute.String("token_broker.import.outcome", string(outcome)))
		endSpan(span, err)
	}()
	cfg := b.Config()
	conn, err := cfg.connector(key)
	if err != nil {
		return nil, "", err
	}
	if imp.ConsumerID != "" && imp.ConsumerID != key.Consumer {
		return nil, "", &InputError{
			Kind: Contradiction, Field: "consumer_id",
			Fault: "is not the consumer of the x-apideck-consumer-id header", Fix: "send the same id, or leave it out",
		}
	}
	now := b.clock.Now()
	state := b.refresher(key)
	defer state.leave()
	var replaced bool
	rec, rev, err := b.update(ctx, key, func(old *Record) (*Record, error) {
		rec := old
		if rec == nil || rec.IsTombstone() {
			rec = newRecord(key, rec, now)
		}
		before := rec.Generation
		outcome, err = rec.importInto(conn, imp, now)
		if replaced = rec.Generation != before; replaced {
			rec.Generation = max(rec.Generation, state.seen()+1)
		}
		return rec, err
	})
	if err != nil {
		return nil, "", err
	}
	b.warnOfLongLifetime(ctx, cfg, key, imp)
	state.install(rec, rev, b.clock.Now())
	if replaced {
		b.destroyEarlier(ctx, key, rev)
	}
	if rec.Cycle.Queued {
		state.start(ctx)
	}
	view := rec.view(&conn.Definition, now)
	return &view, outcome, nil
}

// newRecord returns the record of a connection that does not exist yet. It goes on
// counting where a tombstone stopped.
func newRecord(key Key, tombstone *Record, now time.Time) *Record {
	rec := &Record{Key: key, Enabled: true, CreatedAt: now}
	if tombstone != nil {
		rec.Generation = tombstone.Generation
	}
	return rec
}

// importInto applies imp to the record, which is the caller's own copy.
func (r *Record) importInto(conn *Connector, imp *Import, now time.Time) (ImportOutcome, error) {
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
	if conn.AuthType != connector.OAuth2 {
		return outcome, nil
	}
	r.unpark(conn.rotationFor(r.Credentials), now)
	if r.needsFirstRefresh(now) && conn.canRefresh(r.Credentials) {
		r.Cycle.Queued = true
	}
	return outcome, nil
}

// maxObjects bounds what settings and metadata of a connection are together, encoded, in
// bytes: merging could make them grow for ever, and stores have limits of their own.
const maxObjects = 256 << 10

func (r *Record) checkSize() error {
	size := 0
	for _, object := range []map[string]any{r.Settings, r.Metadata} {
		encoded, err := json.Marshal(object)
		if err != nil {
			return badBody("settings or metadata", "cannot be encoded", "send plain JSON")
		}
		size += len(encoded)
	}
	if size > maxObjects {
		return &InputError{
			Kind: Contradiction, Field: "settings and metadata",
			Fault: fmt.Sprintf("have %d bytes together with what is stored", size),
			Fix:   fmt.Sprintf("keep them below %d, null removes a member", maxObjects),
		}
	}
	return nil
}

// checkFit reports a setting that cannot stand where the connector puts it. One that is
// missing is no fault yet.
func (c *Connector) checkFit(settings map[string]any) error {
	if unfit, ok := errors.AsType[*connector.SettingError](c.CheckSettings(settings)); ok {
		return &InputError{
			Kind: Contradiction, Field: "settings." + unfit.Setting, Fault: unfit.Fault,
			Fix: fmt.Sprintf("send one that fits %s", c.ID),
		}
	}
	return nil
}

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

func (c *ImportCredentials) empty() bool {
	return c.AccessToken.IsZero() && c.RefreshToken.IsZero()
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

// unmask returns settings without what is only the mask that callers are shown. A list
// with a mask in it is left out whole: nobody could say what stood there.
func (c *Connector) unmask(settings map[string]any) map[string]any {
	out := make(map[string]any, len(settings))
	for name, value := range settings {
		switch nested := value.(type) {
		case map[string]any:
			out[name] = c.unmask(nested)
		case []any:
			if !c.isMasked(nested) {
				out[name] = value
			}
		default:
			if value != Mask || !c.IsSensitive(name) {
				out[name] = value
			}
		}
	}
	return out
}

// isMasked reports whether something in a list is masked.
func (c *Connector) isMasked(list []any) bool {
	return slices.ContainsFunc(list, func(value any) bool {
		switch nested := value.(type) {
		case []any:
			return c.isMasked(nested)
		case map[string]any:
			for name, value := range nested {
				if value == Mask && c.IsSensitive(name) || c.isMasked([]any{value}) {
					return true
				}
			}
		}
		return false
	})
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

func (b *Broker) warnOfLongLifetime(ctx context.Context, cfg *Config, key Key, imp *Import) {
	c := imp.Credentials
	if c == nil {
		return
	}
	var lifetime time.Duration
	switch {
	case !c.ExpiresAt.IsZero():
		lifetime = c.ExpiresAt.Sub(b.clock.Now())
	case c.ExpiresIn != nil:
		lifetime = *c.ExpiresIn
	}
	if lifetime >= longLifetime {
		cfg.logger().LogAttrs(ctx, slog.LevelWarn, "imported token has a lifetime of a year or more; expires_in is in seconds",
			slog.String("connection", key.String()), slog.Duration("lifetime", lifetime))
	}
}
