package engine

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/inject"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// An allowance caches the last host check that a snapshot has passed.
type allowance struct {
	conn         *record.Connector // as configured at the time of the check
	private      bool
	scheme, host string
}

// Allows returns nil if the snapshot's credential may be sent to u, otherwise
// [record.ErrHostNotAllowed]. Most requests of a connection go to one host, so the last allowed
// host is remembered.
func (s *Snapshot) Allows(cfg *record.Config, conn *record.Connector, u *url.URL) error {
	private := cfg.AllowsPrivate(conn)
	if known := s.allowed.Load(); known != nil &&
		known.conn == conn && known.private == private && known.scheme == u.Scheme && known.host == u.Host {
		return nil
	}
	if err := AllowsHost(cfg, conn, u, s.Record.Settings); err != nil {
		return err
	}
	s.allowed.Store(&allowance{conn, private, u.Scheme, u.Host})
	return nil
}

// AllowsHost returns nil if a credential may be sent to u, otherwise [record.ErrHostNotAllowed].
func AllowsHost(cfg *record.Config, conn *record.Connector, u *url.URL, settings map[string]any) error {
	if err := cfg.DefinitionOf(conn).AllowsHost(u.Scheme, u.Host, settings); err != nil {
		return fmt.Errorf("%w: %w", record.ErrHostNotAllowed, err) // err names the connector
	}
	return nil
}

// injectionsFor renders the injections for requests of a connection. Its error is a
// [*record.TokenError]: a setting or the token is missing, or cannot be put into a request.
func injectionsFor(c *record.Connector, rec *record.Record) ([]connector.Injection, error) {
	token := ""
	if rec.Credentials != nil {
		token = rec.Credentials.AccessToken.Reveal()
	}
	injections, err := c.Injections(rec.Settings, token)
	if err == nil {
		return injections, nil
	}
	failure := &record.TokenError{Key: rec.Key, Class: record.ClassConfiguration, Code: record.CodeInvalidCredential, BadSettings: true, Err: err}
	if fault, ok := errors.AsType[*connector.SettingError](err); ok && fault.IsMissing() || errors.Is(err, connector.ErrNoAccessToken) {
		failure.Code = record.CodeMissingSettings
	}
	return nil, failure
}

// A preparedCredential is the rendered credential of a snapshot. The next request can use
// it unless the connector was reconfigured.
type preparedCredential struct {
	conn       *record.Connector // as configured when it was rendered
	credential *inject.Credential
}

// maxPrepared is the size in bytes up to which a rendered credential is kept. It uses memory
// until the snapshot is dropped.
const maxPrepared = 1 << 10

// Credential returns the snapshot's credential, rendered for requests.
func (s *Snapshot) Credential(conn *record.Connector) (*inject.Credential, error) {
	if known := s.prepared.Load(); known != nil && known.conn == conn {
		return known.credential, nil
	}
	injections, err := injectionsFor(conn, s.Record)
	if err != nil {
		return nil, err
	}
	credential := inject.Prepare(injections)
	if credential.Size() <= maxPrepared {
		s.prepared.Store(&preparedCredential{conn, credential})
	}
	return credential, nil
}
