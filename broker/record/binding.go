package record

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// A binding is a snapshot, taken before settings change, of what they tie a record's
// secrets to: the hosts that the secrets are sent to, and the identity that tokens are
// fetched for. A caller may change settings but not read secrets, so a change must neither
// send the stored secrets to a host that the caller controls nor keep a token that was
// fetched for another identity.
type binding struct {
	settings     map[string]any
	destinations connector.Destinations
	credentials  *Credentials
}

// binding takes the snapshot.
func (r *Record) binding(conn *Connector) *binding {
	b := &binding{settings: cloneObject(r.Settings), destinations: conn.Destinations(r.Settings)}
	if r.Credentials != nil {
		credentials := *r.Credentials
		b.credentials = &credentials
	}
	return b
}

// check compares r, which already has its new settings and credentials, with the snapshot;
// patch and sent are the settings and credentials of the request. If stored secrets would go
// to another host, the request must contain them, which proves that the caller knows them:
// otherwise check returns an [*InputError]. It removes tokens that were fetched for another
// identity and reports whether the identity changed.
func (b *binding) check(conn *Connector, r *Record, patch map[string]any, sent *ImportCredentials) (identity bool, err error) {
	if b.moved(conn.Destinations(r.Settings)) {
		if err := b.checkMove(conn, r, patch, sent); err != nil {
			return false, err
		}
		identity = conn.FetchesTokens()
	}
	for _, name := range conn.IdentitySettings() {
		identity = identity || !reflect.DeepEqual(b.settings[name], r.Settings[name])
	}
	if !identity {
		return false, nil
	}
	if refresh, access := b.keeps(r); refresh || access {
		r.Credentials = nil
	}
	// The response to a request in progress would be for the old identity too.
	r.Lease, r.Cycle = nil, Cycle{}
	return true, nil
}

// moved reports whether a secret would go to another host than before. A destination
// without a host was never sent anything.
func (b *binding) moved(now connector.Destinations) bool {
	for i, before := range b.destinations {
		if before != "" && before != now[i] {
			return true
		}
	}
	return false
}

// checkMove returns an [*InputError] unless the request contains the secrets that would move.
func (b *binding) checkMove(conn *Connector, r *Record, patch map[string]any, sent *ImportCredentials) error {
	field := "settings"
	for _, name := range conn.DestinationSettings() {
		if !reflect.DeepEqual(b.settings[name], r.Settings[name]) {
			field = "settings." + name
			break
		}
	}
	const fault = "decides which host gets the connection's stored credentials, and has changed"
	for _, s := range conn.Definition.Settings {
		if stored := b.settings[s.Name]; s.Sensitive && stored != nil && stored != "" && patch[s.Name] == nil && r.Settings[s.Name] != nil {
			return &InputError{Kind: InputInvalid, Field: field, Fault: fault, Fix: fmt.Sprintf("send settings.%s with it", s.Name)}
		}
	}
	// Fetched tokens need no proof: check removes them, and they are fetched again.
	if b.credentials == nil || conn.FetchesTokens() || b.proves(r, sent) {
		return nil
	}
	return &InputError{
		Kind: InputInvalid, Field: field, Fault: fault,
		Fix: "import it together with the connection's current or a recent refresh token, or with new credentials",
	}
}

// keeps reports which of the snapshot's tokens r still has.
func (b *binding) keeps(r *Record) (refresh, access bool) {
	old, now := b.credentials, r.Credentials
	if old == nil || now == nil {
		return false, false
	}
	return !old.RefreshToken.IsZero() && now.RefreshToken.Equal(old.RefreshToken),
		!old.AccessToken.IsZero() && now.AccessToken.Equal(old.AccessToken)
}

// proves reports whether sent shows that the caller knows the tokens that r keeps. A refresh
// token that a refresh has replaced counts, since a token endpoint accepted it for this
// connection. One that an import has replaced does not: a caller could have planted it, to
// send it again later.
func (b *binding) proves(r *Record, sent *ImportCredentials) bool {
	refresh, access := b.keeps(r)
	if !refresh && !access {
		return true
	}
	if sent == nil {
		return false
	}
	if !sent.RefreshToken.IsZero() &&
		(sent.RefreshToken.Equal(b.credentials.RefreshToken) || slices.Contains(r.Replaced, sent.RefreshToken.Hash())) {
		return true
	}
	return !refresh && !sent.AccessToken.IsZero() && sent.AccessToken.Equal(b.credentials.AccessToken)
}
