package record

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// A binding is what the secrets of a record are bound to by its settings: the hosts
// that they are sent to, and the identity that tokens are fetched for. It is taken
// before settings are changed. Whoever may change settings may not see the secrets;
// so a change must not send them to where another tenant reads them, nor leave a
// token in place that is somebody else's.
type binding struct {
	settings     map[string]any
	destinations connector.Destinations
	credentials  *Credentials
}

func (r *Record) binding(conn *Connector) *binding {
	b := &binding{settings: cloneObject(r.Settings), destinations: conn.Destinations(r.Settings)}
	if r.Credentials != nil {
		credentials := *r.Credentials
		b.credentials = &credentials
	}
	return b
}

// check is called when the record has its new settings, of which patch was sent, and
// the credentials that were sent with them, if any. Where secrets that the record has
// from before would go to another host, those must have come along, which proves that
// the caller has them: else it is an [*InputError]. Tokens that were fetched for another
// identity are removed; check reports whether there was a change of identity.
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
	// The answer to a request that is under way is somebody else's too.
	r.Lease, r.Cycle = nil, Cycle{}
	return true, nil
}

// moved reports whether something goes elsewhere than before. What had no host yet was
// never sent anywhere.
func (b *binding) moved(now connector.Destinations) bool {
	for i, before := range b.destinations {
		if before != "" && before != now[i] {
			return true
		}
	}
	return false
}

func (b *binding) checkMove(conn *Connector, r *Record, patch map[string]any, sent *ImportCredentials) error {
	field := "settings"
	for _, name := range conn.DestinationSettings() {
		if !reflect.DeepEqual(b.settings[name], r.Settings[name]) {
			field = "settings." + name
			break
		}
	}
	const fault = "decides which host gets the connection's stored credentials, and is another than before"
	for _, s := range conn.Definition.Settings {
		if stored := b.settings[s.Name]; s.Sensitive && stored != nil && stored != "" && patch[s.Name] == nil && r.Settings[s.Name] != nil {
			return &InputError{Kind: InputInvalid, Field: field, Fault: fault, Fix: fmt.Sprintf("send settings.%s with it", s.Name)}
		}
	}
	// Tokens that can be fetched are simply fetched anew: check removes them.
	if b.credentials == nil || conn.FetchesTokens() || b.proves(r, sent) {
		return nil
	}
	return &InputError{
		Kind: InputInvalid, Field: field, Fault: fault,
		Fix: "import it together with the connection's refresh token, or one that it had lately, or with new credentials",
	}
}

// keeps reports which tokens from before the record still has.
func (b *binding) keeps(r *Record) (refresh, access bool) {
	old, now := b.credentials, r.Credentials
	if old == nil || now == nil {
		return false, false
	}
	return !old.RefreshToken.IsZero() && now.RefreshToken.Equal(old.RefreshToken),
		!old.AccessToken.IsZero() && now.AccessToken.Equal(old.AccessToken)
}

// proves reports whether the caller has sent what the record keeps: what it has anyway
// need not be kept from it. A refresh token that a redeem has replaced will do, since a
// token endpoint has taken it for this connection's; one that an import has replaced
// will not: anybody could have brought it, to come back to it later.
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
